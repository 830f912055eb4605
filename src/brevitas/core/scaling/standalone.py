"""Scales that are constants or parameters. Layer: core (L3)."""

from __future__ import annotations

from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from brevitas.core._state import LearnedValueModule
from brevitas.core._trial import on_trial
from brevitas.core.function_wrapper.shape import OverTensorView
from brevitas.core.scaling._collected import CollectedParameter
from brevitas.core.scaling._restriction import ScaleRestriction, ScaleSource, SourceKind
from brevitas.core.scaling._trunc import TruncMsbScaling, TruncScalingWrapper
from brevitas.core.scaling.runtime import ParameterListStats
from brevitas.core.stats.stats_wrapper import DEFAULT_MOMENTUM, SCALAR_SHAPE, _Stats
from brevitas.core.utils import StatelessBuffer

__all__ = [
    "ConstScaling",
    "ParameterFromRuntimeStatsScaling",
    "ParameterFromStatsFromParameterScaling",
    "ParameterScaling",
    "TruncMsbScaling",
    "TruncScalingWrapper",
]


def _restricted_init(
    restriction: ScaleRestriction,
    init: float | Tensor,
    shape: tuple[int, ...] | None,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> Tensor:
    if isinstance(init, Tensor):
        stored = restriction.init_from_tensor(init.detach().clone()).to(dtype=dtype, device=device)
        return stored if shape is None else stored.expand(shape).clone()
    if not isfinite(init):
        raise ValueError(f"scaling_init={init!r}: expected a finite number.")
    stored = restriction.init_from_float(float(init))
    return torch.full(shape or SCALAR_SHAPE, float(stored), dtype=dtype, device=device)


class ConstScaling(nn.Module):
    """A constant scale: ``scale = restrict(scaling_init) / threshold``.

    Args:
        scaling_init: real value, a number or a tensor broadcastable to ``x``.
        restrict_scaling_impl: restriction of the value (float by default).
        restrict_threshold_impl: restriction of the threshold.
        restrict_scale_threshold_impl: restriction of the quotient.
        scaling_min_val: smallest real value before the division.
        dtype: dtype of the constant.
        device: device of the constant.

    Example:
        >>> ConstScaling(1.0)(torch.zeros(3), torch.tensor(4.0))
        tensor(0.2500)
    """

    def __init__(
        self,
        scaling_init: float | Tensor,
        restrict_scaling_impl: nn.Module | None = None,
        restrict_threshold_impl: nn.Module | None = None,
        restrict_scale_threshold_impl: nn.Module | None = None,
        scaling_min_val: float | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.restriction = ScaleRestriction(
            restrict_scaling_impl,
            scaling_min_val,
            restrict_threshold_impl,
            restrict_scale_threshold_impl,
        )
        stored = _restricted_init(self.restriction, scaling_init, None, dtype, "cpu")
        self.value = StatelessBuffer(stored).to(torch.empty(0, device=device).device)

    def read(self, x: Tensor) -> ScaleSource:
        """Return the constant."""
        return ScaleSource(SourceKind.STORED, self.value())

    def forward(self, placeholder: Tensor, threshold: Tensor | None = None) -> Tensor:
        """Return the scale; ``placeholder`` is not read."""
        return self.restriction.scale_of(self.read(placeholder), threshold)


class ParameterScaling(LearnedValueModule):
    """A learned scale with a given start: ``scale = clamp_min(restrict(value)) / threshold``.

    Args:
        scaling_init: real start value, a number or a tensor of shape ``scaling_shape``.
        scaling_shape: shape of the parameter; that of ``scaling_init`` by default.
        restrict_scaling_impl: domain in which the parameter is stored (float by default).
        restrict_threshold_impl: restriction of the threshold.
        restrict_scale_threshold_impl: restriction of the quotient.
        scaling_min_val: smallest real value before the division.
        dtype: dtype of the parameter.
        device: device of the parameter.

    Raises:
        ValueError: when ``scaling_init`` cannot be broadcast to ``scaling_shape``.

    Example:
        >>> ParameterScaling(6.0)(torch.zeros(3), torch.tensor(3.0)).item()
        2.0

    Reference: Esser et al., "Learned Step Size Quantization", 2020.
    """

    def __init__(
        self,
        scaling_init: float | Tensor,
        scaling_shape: tuple[int, ...] | None = None,
        restrict_scaling_impl: nn.Module | None = None,
        restrict_threshold_impl: nn.Module | None = None,
        restrict_scale_threshold_impl: nn.Module | None = None,
        scaling_min_val: float | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if isinstance(scaling_init, Tensor) and scaling_shape is not None:
            _check_broadcast(scaling_init, tuple(scaling_shape))
        self.restriction = ScaleRestriction(
            restrict_scaling_impl,
            scaling_min_val,
            restrict_threshold_impl,
            restrict_scale_threshold_impl,
        )
        shape = None if scaling_shape is None else tuple(scaling_shape)
        self.value = nn.Parameter(
            _restricted_init(self.restriction, scaling_init, shape, dtype, device)
        )

    def read(self, x: Tensor) -> ScaleSource:
        """Return the parameter."""
        return ScaleSource(SourceKind.STORED, self.value)

    def forward(self, placeholder: Tensor, threshold: Tensor | None = None) -> Tensor:
        """Return the scale; ``placeholder`` is not read."""
        return self.restriction.scale_of(self.read(placeholder), threshold)


def _check_broadcast(init: Tensor, shape: tuple[int, ...]) -> None:
    try:
        init.expand(shape)
    except RuntimeError as error:
        raise ValueError(
            f"scaling_init of shape {tuple(init.shape)}: expected a number or a tensor "
            f"broadcastable to scaling_shape={shape}."
        ) from error


class ParameterFromRuntimeStatsScaling(CollectedParameter):
    """A learned scale that starts from statistics of the first training batches.

    While collecting: ``scale = clamp_min(stats(x)) / threshold`` in training and the moving
    average in evaluation. Afterwards: ``scale = clamp_min(restrict(value)) / threshold``.

    Args:
        collect_stats_steps: number of training forwards that collect statistics.
        scaling_stats_impl: statistic, e.g. ``AbsPercentile``.
        scaling_stats_input_view_shape_impl: view of ``x`` that the statistic reduces.
        scaling_shape: shape of the parameter, broadcastable to ``x``.
        restrict_scaling_impl: domain in which the parameter is stored (float by default).
        restrict_threshold_impl: restriction of the threshold.
        restrict_scale_threshold_impl: restriction of the quotient.
        scaling_stats_momentum: weight of the newest batch; None for the plain mean.
        scaling_min_val: smallest real value before the division.
        dtype: dtype of the parameter.
        device: device of the parameter.

    Example:
        >>> from brevitas.core.stats import AbsMax
        >>> scaling = ParameterFromRuntimeStatsScaling(1, AbsMax())
        >>> scaling(torch.tensor([-4.0, 2.0])).item(), scaling(torch.tensor([9.0])).item()
        (4.0, 4.0)
    """

    def __init__(
        self,
        collect_stats_steps: int,
        scaling_stats_impl: nn.Module,
        scaling_stats_input_view_shape_impl: nn.Module | None = None,
        scaling_shape: tuple[int, ...] = SCALAR_SHAPE,
        restrict_scaling_impl: nn.Module | None = None,
        restrict_threshold_impl: nn.Module | None = None,
        restrict_scale_threshold_impl: nn.Module | None = None,
        scaling_stats_momentum: float | None = DEFAULT_MOMENTUM,
        scaling_min_val: float | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        shape = tuple(scaling_shape)
        super().__init__(collect_stats_steps, shape, scaling_stats_momentum, 1.0, dtype, device)
        self.stats_input_view_shape_impl = scaling_stats_input_view_shape_impl or OverTensorView()
        self.stats = _Stats(scaling_stats_impl, shape)
        self.restriction = ScaleRestriction(
            restrict_scaling_impl,
            scaling_min_val,
            restrict_threshold_impl,
            restrict_scale_threshold_impl,
        )

    def to_parameter(self, statistic: Tensor) -> Tensor:
        """Map the average statistic to the domain in which the scale is learned."""
        return self.restriction.to_stored(self.restriction.clamp_statistic(statistic))

    def init_scale(self) -> None:
        """End the collection now and start learning from the average."""
        self.finish_collection()

    def compute_statistic(self, x: Tensor) -> Tensor:
        """Return the statistic of the view of ``x``."""
        return self.stats(self.stats_input_view_shape_impl(x))

    def _read_in_training(self, x: Tensor) -> ScaleSource:
        statistic = self.collect(x)
        if statistic is None:
            return ScaleSource(SourceKind.STORED, self.value)
        return ScaleSource(SourceKind.BATCH, statistic)

    def read(self, x: Tensor) -> ScaleSource:
        """Return the statistic of ``x``, the average or the parameter; training collects."""
        if self.training:
            return self._read_in_training(x)
        if self.collecting:
            return ScaleSource(SourceKind.STATISTIC, self.running_statistic())
        return ScaleSource(SourceKind.STORED, self.value)

    def training_forward(self, stats_input: Tensor, threshold: Tensor | None = None) -> Tensor:
        """Scale from the batch while collecting, from the parameter afterwards."""
        return self.restriction.scale_of(self._read_in_training(stats_input), threshold)

    def forward(self, stats_input: Tensor, threshold: Tensor | None = None) -> Tensor:
        """Return the scale of ``stats_input`` divided by ``threshold``."""
        return self.restriction.scale_of(self.read(stats_input), threshold)


class ParameterFromStatsFromParameterScaling(LearnedValueModule):
    """A learned scale that starts from statistics of the quantized parameter itself.

    ``value`` is set from the statistic of the tracked parameters at the first call, then
    ``scale = clamp_min(restrict(value)) / threshold`` is learned.

    Args:
        scaling_stats_impl: statistic, e.g. ``AbsMax``.
        scaling_stats_input_view_shape_impl: view of each parameter that the statistic reduces.
        scaling_stats_input_concat_dim: dimension along which the views of several parameters join.
        tracked_parameter_list: parameters that share the scale.
        scaling_shape: shape of the scale, broadcastable to the parameter.
        force_parameter: keep for compatibility; the scale is a parameter in any case.
        restrict_scaling_impl: domain in which the scale is stored (float by default).
        restrict_threshold_impl: restriction of the threshold.
        restrict_scale_threshold_impl: restriction of the quotient.
        scaling_affine_rescaling_init: start of a learned factor on the statistic; None for none.
        scaling_affine_shifting_init: start of a learned offset on the statistic; None for none.
        scaling_min_val: smallest real value before the division.
        dtype: dtype of the scale.
        device: device of the scale.

    Example:
        >>> from brevitas.core.stats import AbsMax
        >>> weight = nn.Parameter(torch.tensor([[-4.0, 2.0]]))
        >>> scaling = ParameterFromStatsFromParameterScaling(
        ...     AbsMax(), OverTensorView(), 0, [weight], ())
        >>> scaling(weight).item()
        4.0
    """

    written_in_forward = ("value",)

    def __init__(
        self,
        scaling_stats_impl: nn.Module,
        scaling_stats_input_view_shape_impl: nn.Module,
        scaling_stats_input_concat_dim: int,
        tracked_parameter_list: list[nn.Parameter],
        scaling_shape: tuple[int, ...],
        force_parameter: bool = False,
        restrict_scaling_impl: nn.Module | None = None,
        restrict_threshold_impl: nn.Module | None = None,
        restrict_scale_threshold_impl: nn.Module | None = None,
        scaling_affine_rescaling_init: float | None = None,
        scaling_affine_shifting_init: float | None = None,
        scaling_min_val: float | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.parameter_list_stats = ParameterListStats(
            scaling_stats_impl,
            tuple(scaling_shape),
            scaling_stats_input_view_shape_impl,
            scaling_stats_input_concat_dim,
            tracked_parameter_list,
            scaling_affine_rescaling_init,
            scaling_affine_shifting_init,
        )
        self.restriction = ScaleRestriction(
            restrict_scaling_impl,
            scaling_min_val,
            restrict_threshold_impl,
            restrict_scale_threshold_impl,
        )
        self.force_parameter = force_parameter
        self.init_done = False
        self.value = nn.Parameter(torch.ones(tuple(scaling_shape), dtype=dtype, device=device))

    def init_from_statistics(self, x: Tensor | None) -> None:
        """Set ``value`` from the statistic of the tracked parameters as they are now."""
        with torch.no_grad():
            statistic = self.restriction.clamp_statistic(self.parameter_list_stats(x))
            self.value.copy_(self.restriction.to_stored(statistic).reshape(self.value.shape))
        self.init_done = True

    def read(self, x: Tensor | None) -> ScaleSource:
        """Return the parameter, which is set from the statistic first where that was not done."""
        if not self.init_done:
            if on_trial():
                return ScaleSource(SourceKind.STATISTIC, self.parameter_list_stats(x))
            self.init_from_statistics(x)
        return ScaleSource(SourceKind.STORED, self.value)

    def forward(self, x: Tensor | None, threshold: Tensor | None = None) -> Tensor:
        """Return the scale divided by ``threshold``."""
        return self.restriction.scale_of(self.read(x), threshold)

    @property
    def has_learned_value(self) -> bool:
        """False until ``value`` was set from the statistic or loaded."""
        return self.init_done

    def forget_learned_value(self) -> None:
        """Take the statistic again at the next call."""
        self.init_done = False

    def on_learned_value_loaded(self, local_metadata: dict[str, Any]) -> None:
        """Keep the loaded scale instead of taking the statistic again."""
        self.init_done = True
