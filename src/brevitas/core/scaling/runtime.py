"""Scales that follow statistics at every call. Layer: core (L3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from brevitas.core._phase import in_backward
from brevitas.core._state import PROGRESS, LearnedValueModule, save_progress
from brevitas.core._trial import on_trial
from brevitas.core.function_wrapper.misc import Identity
from brevitas.core.scaling._group import RuntimeDynamicGroupStatsScaling
from brevitas.core.scaling._restriction import ScaleRestriction, ScaleSource, SourceKind
from brevitas.core.stats.stats_wrapper import DEFAULT_MOMENTUM, _Stats

__all__ = [
    "RuntimeDynamicGroupStatsScaling",
    "RuntimeStatsScaling",
    "StatsFromParameterScaling",
]


class AffineRescaling(LearnedValueModule):
    """Learned affine map of a statistic: ``y = x * weight + bias``.

    Args:
        rescaling_init: start of the factor; None for none.
        shifting_init: start of the offset; None for none.
        shape: shape of factor and offset, that of the statistic.
        dtype: dtype of the parameters.
        device: device of the parameters.
    """

    optional_keys = ("affine_weight", "affine_bias")

    def __init__(
        self,
        rescaling_init: float | None,
        shifting_init: float | None,
        shape: tuple[int, ...],
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        factory: dict[str, Any] = {"dtype": dtype, "device": device}
        self.affine_weight = self.affine_bias = None
        if rescaling_init is not None:
            self.affine_weight = nn.Parameter(torch.full(shape, float(rescaling_init), **factory))
        if shifting_init is not None:
            self.affine_bias = nn.Parameter(torch.full(shape, float(shifting_init), **factory))

    def forward(self, x: Tensor) -> Tensor:
        """Return the mapped statistic, of the shape of ``x``."""
        if self.affine_weight is not None:
            x = x * self.affine_weight
        return x if self.affine_bias is None else x + self.affine_bias


def affine_rescaling(
    rescaling_init: float | None, shifting_init: float | None, shape: tuple[int, ...]
) -> nn.Module:
    """Return the affine map of a statistic, the identity where nothing is learned.

    Example:
        >>> affine_rescaling(None, None, ())
        Identity()
    """
    if rescaling_init is None and shifting_init is None:
        return Identity()
    return AffineRescaling(rescaling_init, shifting_init, shape)


def _as_one(parameters: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
    """Join parameters, as they are quantized, to one that broadcasts with a statistic's shape.

    Channels stay where they are; all other dimensions become one.
    """
    if not shape:
        return torch.cat([parameter.reshape(-1) for parameter in parameters])
    channel = shape.index(max(shape))
    rows = torch.cat([p.movedim(channel, 0).flatten(1) for p in parameters], dim=1)
    others = (1,) * (len(shape) - 2)
    return rows.reshape(*rows.shape, *others).movedim(0, channel)


class ParameterListStats(nn.Module):
    """Statistic of one parameter or of several that share a quantizer.

    The list is read at every call, so it may be a live view of the layers that own the parameters.

    Args:
        stats_impl: statistic of the joined views.
        output_shape: shape of the result.
        view_shape_impl: view of each parameter.
        concat_dim: dimension along which the views are joined.
        tracked_parameter_list: the parameters.
        rescaling_init: start of a learned factor on the statistic; None for none.
        shifting_init: start of a learned offset on the statistic; None for none.
    """

    def __init__(
        self,
        stats_impl: nn.Module,
        output_shape: tuple[int, ...],
        view_shape_impl: nn.Module,
        concat_dim: int,
        tracked_parameter_list: Sequence[Tensor],
        rescaling_init: float | None = None,
        shifting_init: float | None = None,
    ) -> None:
        super().__init__()
        if len(tracked_parameter_list) == 0:
            raise ValueError(
                "tracked_parameter_list is empty: expected at least one parameter to take the "
                "statistic of; attach the quantizer to a layer that has its weight or bias."
            )
        self.view_shape_impl = view_shape_impl
        self.stats = _Stats(stats_impl, output_shape)
        self.concat_dim = concat_dim
        # A tuple keeps parameters given by hand out of this module's own parameters.
        self._tracked = (tracked_parameter_list,)
        self.affine_rescaling = affine_rescaling(rescaling_init, shifting_init, output_shape)

    def forward(self, x: Tensor | None = None) -> Tensor:
        """Return the statistic; ``x`` stands for the parameter where only one is tracked."""
        tracked = self._tracked[0]
        if len(tracked) == 1:
            joined = self.view_shape_impl(tracked[0] if x is None else x)
        elif type(self.view_shape_impl) is Identity:
            joined = _as_one(tracked, self.stats.stats_output_shape)
        else:
            joined = torch.cat([self.view_shape_impl(p) for p in tracked], dim=self.concat_dim)
        return self.affine_rescaling(self.stats(joined))


class StatsFromParameterScaling(nn.Module):
    """Scale from a statistic of the quantized parameter: ``scale = restrict(stats) / threshold``.

    Args:
        scaling_stats_impl: statistic, e.g. ``AbsMax``.
        scaling_stats_input_view_shape_impl: view of each parameter that the statistic reduces.
        scaling_stats_input_concat_dim: dimension along which the views of several parameters join.
        tracked_parameter_list: parameters that share the scale.
        scaling_shape: shape of the scale, broadcastable to the parameter.
        force_parameter: unused here; accepted so that quantizers can switch classes.
        restrict_scaling_impl: restriction of the statistic (float by default).
        restrict_threshold_impl: restriction of the threshold.
        restrict_scale_threshold_impl: restriction of the quotient.
        scaling_affine_rescaling_init: start of a learned factor on the statistic; None for none.
        scaling_affine_shifting_init: start of a learned offset on the statistic; None for none.
        scaling_min_val: smallest real value before the division.
        dtype: dtype of the affine parameters.
        device: device of the affine parameters.

    Example:
        >>> from brevitas.core.function_wrapper import OverTensorView
        >>> from brevitas.core.stats import AbsMax
        >>> weight = nn.Parameter(torch.tensor([[-4.0, 2.0]]))
        >>> scaling = StatsFromParameterScaling(AbsMax(), OverTensorView(), 0, [weight], ())
        >>> scaling(weight, torch.tensor(8.0)).item()
        0.5
    """

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
        self.force_parameter = force_parameter
        self.restriction = ScaleRestriction(
            restrict_scaling_impl,
            scaling_min_val,
            restrict_threshold_impl,
            restrict_scale_threshold_impl,
        )
        self.to(device=device, dtype=dtype)

    def read(self, x: Tensor | None) -> ScaleSource:
        """Return the statistic of the tracked parameters."""
        return ScaleSource(SourceKind.STATISTIC, self.parameter_list_stats(x))

    def forward(self, x: Tensor | None, threshold: Tensor | None = None) -> Tensor:
        """Return the scale of the tracked parameters divided by ``threshold``."""
        return self.restriction.scale_of(self.read(x), threshold)


class RuntimeStats(LearnedValueModule):
    """Statistic of the batch in training, its moving average in evaluation.

    A forward inside a backward pass (recomputation of a checkpoint) does not average again.

    Args:
        stats_impl: statistic of the view of the input.
        output_shape: shape of the result.
        view_shape_impl: view of the input.
        momentum: weight of the newest batch; None for the plain mean of all batches.
        dtype: dtype of the moving average.
        device: device of the moving average.
    """

    optional_keys = ("running_stats",)
    running_stats: Tensor
    counter: Tensor

    def __init__(
        self,
        stats_impl: nn.Module,
        output_shape: tuple[int, ...],
        view_shape_impl: nn.Module,
        momentum: float | None,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
    ) -> None:
        super().__init__()
        self.stats_input_view_shape_impl = view_shape_impl
        self.stats = _Stats(stats_impl, output_shape)
        self.momentum = momentum
        self.register_buffer("running_stats", torch.ones(output_shape, dtype=dtype, device=device))
        # An integer, which no change of dtype makes too coarse to count with.
        counter = torch.zeros((), dtype=torch.int64, device=device)
        self.register_buffer("counter", counter, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RuntimeStats:
        was_meta = self.counter.is_meta
        super()._apply(fn, recurse)
        if was_meta and not self.counter.is_meta:
            self.counter.zero_()
            self.running_stats.fill_(1.0)
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        save_progress(destination, prefix, {"step": int(self.counter)})

    def on_learned_value_loaded(self, local_metadata: dict[str, Any]) -> None:
        """Go on averaging where the checkpoint stopped; without that record, as after one batch."""
        self.counter.fill_(local_metadata.get(PROGRESS, {"step": 1})["step"])

    def forward(self, x: Tensor) -> Tensor:
        """Return the statistic of shape ``output_shape``."""
        if not self.training:
            return self.running_stats
        statistic = self.stats(self.stats_input_view_shape_impl(x))
        if not on_trial() and (torch.compiler.is_compiling() or not in_backward()):
            self._observe(statistic)
        return statistic

    @torch.no_grad()
    def _observe(self, statistic: Tensor) -> None:
        self.counter.add_(1)
        first = self.counter.eq(1)
        weight = 1.0 / self.counter if self.momentum is None else self.momentum
        average = self.running_stats + (statistic - self.running_stats) * weight
        self.running_stats.copy_(torch.where(first, statistic, average))


class RuntimeStatsScaling(nn.Module):
    """Scale from statistics of each batch, as batch normalization does.

    In training ``scale = restrict(stats(x)) / threshold``; in evaluation the moving average
    takes the place of ``stats(x)``.

    Args:
        scaling_stats_impl: statistic, e.g. ``AbsMaxAve``.
        scaling_stats_input_view_shape_impl: view of ``x`` that the statistic reduces.
        scaling_shape: shape of the scale, broadcastable to ``x``.
        scaling_affine_rescaling_init: start of a learned factor on the statistic; None for none.
        scaling_affine_shifting_init: start of a learned offset on the statistic; None for none.
        restrict_scaling_impl: restriction of the statistic (float by default).
        restrict_threshold_impl: restriction of the threshold.
        restrict_scale_threshold_impl: restriction of the quotient.
        scaling_stats_momentum: weight of the newest batch; None for the plain mean.
        scaling_min_val: smallest real value before the division.
        dtype: dtype of the moving average.
        device: device of the moving average.

    Example:
        >>> from brevitas.core.function_wrapper import OverTensorView
        >>> from brevitas.core.stats import AbsMax
        >>> scaling = RuntimeStatsScaling(AbsMax(), OverTensorView(), ())
        >>> scaling(torch.tensor([-4.0, 2.0]), torch.tensor(8.0)).item()
        0.5
    """

    def __init__(
        self,
        scaling_stats_impl: nn.Module,
        scaling_stats_input_view_shape_impl: nn.Module,
        scaling_shape: tuple[int, ...],
        scaling_affine_rescaling_init: float | None = None,
        scaling_affine_shifting_init: float | None = None,
        restrict_scaling_impl: nn.Module | None = None,
        restrict_threshold_impl: nn.Module | None = None,
        restrict_scale_threshold_impl: nn.Module | None = None,
        scaling_stats_momentum: float | None = DEFAULT_MOMENTUM,
        scaling_min_val: float | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        shape = tuple(scaling_shape)
        self.runtime_stats = RuntimeStats(
            scaling_stats_impl,
            shape,
            scaling_stats_input_view_shape_impl,
            scaling_stats_momentum,
            dtype,
            device,
        )
        self.affine_rescaling = affine_rescaling(
            scaling_affine_rescaling_init, scaling_affine_shifting_init, shape
        ).to(device=device, dtype=dtype)
        self.restriction = ScaleRestriction(
            restrict_scaling_impl,
            scaling_min_val,
            restrict_threshold_impl,
            restrict_scale_threshold_impl,
        )

    def read(self, x: Tensor) -> ScaleSource:
        """Return the statistic of ``x`` in training, the average in evaluation."""
        return ScaleSource(SourceKind.STATISTIC, self.affine_rescaling(self.runtime_stats(x)))

    def forward(self, x: Tensor, threshold: Tensor | None = None) -> Tensor:
        """Return the scale of ``x`` divided by ``threshold``."""
        return self.restriction.scale_of(self.read(x), threshold)
