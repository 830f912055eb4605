"""The integer that stands for zero: constant, learned, or found from statistics. Layer: core (L3).

Every kind gives ``(x, scale, bit_width) -> zero point`` in units of integer steps. A real-valued
offset ``p`` becomes ``p / scale + min_int``, rounded and clamped where it is quantized.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from brevitas.core._state import LearnedValueModule
from brevitas.core._trial import on_trial
from brevitas.core.function_wrapper.shape import OverTensorView
from brevitas.core.scaling._collected import CollectedParameter
from brevitas.core.scaling.runtime import ParameterListStats
from brevitas.core.stats._average import summation_dtype
from brevitas.core.stats.stats_wrapper import DEFAULT_MOMENTUM, SCALAR_SHAPE
from brevitas.core.utils import StatelessBuffer
from brevitas.function.ops_ste import abs_binary_sign_grad
from brevitas.utils.torch_utils import widened

__all__ = [
    "ParameterFromRuntimeZeroPoint",
    "ParameterFromStatsFromParameterZeroPoint",
    "ParameterZeroPoint",
    "PreZeroCenterZeroPoint",
    "RuntimeDynamicGroupZeroPoint",
    "StatsFromParameterZeroPoint",
    "ZeroZeroPoint",
]


class ZeroZeroPoint(nn.Module):
    """Zero point of a symmetric quantizer: zero.

    Args:
        dtype: dtype of the constant.
        device: device of the constant.

    Example:
        >>> ZeroZeroPoint()(torch.ones(2), torch.tensor(0.1), torch.tensor(8.0))
        tensor(0.)
    """

    def __init__(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self.zero_point = StatelessBuffer(0.0, dtype=dtype, device=device)

    def forward(self, x: Tensor, scale: Tensor, bit_width: Tensor) -> Tensor:
        """Return zero, a 0-d tensor."""
        return self.zero_point()


class _ScaleShiftZeroPoint(nn.Module):
    """Real offset to integer zero point: ``p / scale + min_int``, rounded if it is quantized.

    Args:
        int_quant: gives the integer range, the rounding and the clamp.
        quantize_zero_point: round and clamp to the integer range if True.
    """

    def __init__(self, int_quant: nn.Module, quantize_zero_point: bool) -> None:
        super().__init__()
        self.int_quant: Any = int_quant
        self.quantize_zero_point = quantize_zero_point

    def forward(self, zero_point: Tensor, scale: Tensor, bit_width: Tensor) -> Tensor:
        smallest = self.int_quant.min_int(bit_width)
        if self.quantize_zero_point:
            return self.int_quant.to_int(scale, smallest, bit_width, zero_point)
        return zero_point / scale + smallest


class _ScaleShiftQuantZeroPoint(nn.Module):
    """Quantized real offset to zero point: ``quantize(p) / scale + min_int``.

    Args:
        zp_int_quant: quantizer of the offset, ``p -> (value, ...)``.
        int_quant: gives the integer range.
        zero_point_shape: shape of the offset, which its quantizer is made for.
        zero_point_dequantized_shape: shape of the result; that of the quantized offset if None.
    """

    def __init__(
        self,
        zp_int_quant: nn.Module,
        int_quant: nn.Module,
        zero_point_shape: tuple[int, ...],
        zero_point_dequantized_shape: tuple[int, ...] | None,
    ) -> None:
        super().__init__()
        self.zp_int_quant = zp_int_quant
        self.int_quant: Any = int_quant
        self.zero_point_shape = tuple(zero_point_shape)
        shape = zero_point_dequantized_shape
        self.zero_point_dequantized_shape = None if shape is None else tuple(shape)

    def forward(self, zero_point: Tensor, scale: Tensor, bit_width: Tensor) -> Tensor:
        offset = self.zp_int_quant(zero_point)[0]
        if self.zero_point_dequantized_shape is not None:
            offset = offset.reshape(self.zero_point_dequantized_shape)
        return offset / scale + self.int_quant.min_int(bit_width)


class StatsFromParameterZeroPoint(nn.Module):
    """Zero point from a statistic of the quantized parameter: ``-stats / scale + min_int``.

    Args:
        int_quant: gives the integer range, the rounding and the clamp.
        quantize_zero_point: round and clamp to the integer range if True.
        zero_point_stats_input_view_shape_impl: view of each parameter that the statistic reduces.
        zero_point_stats_input_concat_dim: dimension along which several parameters join.
        zero_point_stats_impl: statistic, e.g. ``NegativeMinOrZero``.
        zero_point_shape: shape of the zero point, broadcastable to the parameter.
        tracked_parameter_list: parameters that share the zero point.
        scale_shift_zero_point_impl: replaces the map from offset to integer.
        zero_point_affine_rescaling_init: start of a learned factor on the statistic.
        zero_point_affine_shifting_init: start of a learned offset on the statistic.
        dtype: dtype of the affine parameters.
        device: device of the affine parameters.
    """

    def __init__(
        self,
        int_quant: nn.Module,
        quantize_zero_point: bool,
        zero_point_stats_input_view_shape_impl: nn.Module,
        zero_point_stats_input_concat_dim: int,
        zero_point_stats_impl: nn.Module,
        zero_point_shape: tuple[int, ...],
        tracked_parameter_list: Sequence[Tensor],
        scale_shift_zero_point_impl: nn.Module | None = None,
        zero_point_affine_rescaling_init: float | None = None,
        zero_point_affine_shifting_init: float | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.parameter_list_stats = ParameterListStats(
            zero_point_stats_impl,
            tuple(zero_point_shape),
            zero_point_stats_input_view_shape_impl,
            zero_point_stats_input_concat_dim,
            tracked_parameter_list,
            zero_point_affine_rescaling_init,
            zero_point_affine_shifting_init,
        ).to(device=device, dtype=dtype)
        self.scale_shift_zero_point = scale_shift_zero_point_impl or _ScaleShiftZeroPoint(
            int_quant, quantize_zero_point
        )

    def read(self, x: Tensor | None) -> Tensor:
        """Return the real offset, from the statistic."""
        return -self.parameter_list_stats(x)

    def forward(self, x: Tensor | None, scale: Tensor, bit_width: Tensor) -> Tensor:
        """Return the zero point, of shape ``zero_point_shape``."""
        return self.scale_shift_zero_point(self.read(x), scale, bit_width)


class ParameterZeroPoint(LearnedValueModule):
    """A learned zero point with a given start: ``|value| / scale + min_int``.

    Args:
        zero_point_init: real offset, a number or a tensor of shape ``zero_point_shape``.
        int_quant: gives the integer range, the rounding and the clamp.
        quantize_zero_point: round and clamp to the integer range if True.
        zero_point_shape: shape of the parameter; that of ``zero_point_init`` by default.
        dtype: dtype of the parameter.
        device: device of the parameter.

    Example:
        >>> from brevitas.core.quant.int_base import IntQuant
        >>> zero_point = ParameterZeroPoint(3.3, IntQuant(False, False), True)
        >>> zero_point(torch.zeros(2), torch.tensor(0.5), torch.tensor(8.0)).item()
        7.0
    """

    def __init__(
        self,
        zero_point_init: float | Tensor,
        int_quant: nn.Module,
        quantize_zero_point: bool,
        zero_point_shape: tuple[int, ...] | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        start = torch.as_tensor(zero_point_init, dtype=dtype, device=device).detach()
        start = start if start.is_floating_point() else start.float()
        if zero_point_shape is not None:
            start = start.expand(tuple(zero_point_shape))
        self.value = nn.Parameter(start.clone())
        self.scale_shift_zero_point = _ScaleShiftZeroPoint(int_quant, quantize_zero_point)

    def read(self, x: Tensor) -> Tensor:
        """Return the real offset, from the parameter."""
        return abs_binary_sign_grad(widened(self.value))

    def forward(self, x: Tensor, scale: Tensor, bit_width: Tensor) -> Tensor:
        """Return the zero point, of the shape of ``value``."""
        return self.scale_shift_zero_point(self.read(x), scale, bit_width)


class ParameterFromRuntimeZeroPoint(CollectedParameter):
    """A learned zero point that starts from statistics of the first training batches.

    ``|stats(x)| / scale + min_int`` while collecting, ``|value| / scale + min_int`` afterwards.

    Args:
        collect_stats_steps: number of training forwards that collect statistics.
        int_quant: gives the integer range, the rounding and the clamp.
        quantize_zero_point: round and clamp to the integer range if True.
        zero_point_stats_impl: statistic, e.g. ``NegativePercentileOrZero``.
        zero_point_shape: shape of the parameter, broadcastable to ``x``.
        zero_point_stats_input_view_shape_impl: view of ``x`` that the statistic reduces.
        zero_point_stats_momentum: weight of the newest batch; None for the plain mean.
        dtype: dtype of the parameter.
        device: device of the parameter.
    """

    def __init__(
        self,
        collect_stats_steps: int,
        int_quant: nn.Module,
        quantize_zero_point: bool,
        zero_point_stats_impl: nn.Module,
        zero_point_shape: tuple[int, ...] = SCALAR_SHAPE,
        zero_point_stats_input_view_shape_impl: nn.Module | None = None,
        zero_point_stats_momentum: float | None = DEFAULT_MOMENTUM,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        shape = tuple(zero_point_shape)
        super().__init__(collect_stats_steps, shape, zero_point_stats_momentum, 0.0, dtype, device)
        self.stats_input_view_shape_impl = (
            zero_point_stats_input_view_shape_impl or OverTensorView()
        )
        self.zero_point_stats_impl = zero_point_stats_impl
        self.scale_shift_zero_point = _ScaleShiftZeroPoint(int_quant, quantize_zero_point)

    def init_zp(self) -> None:
        """End the collection now and start learning from the average."""
        self.finish_collection()

    def compute_statistic(self, x: Tensor) -> Tensor:
        """Return the statistic of the view of ``x``."""
        return self.zero_point_stats_impl(self.stats_input_view_shape_impl(x))

    def training_forward(self, x: Tensor) -> Tensor:
        """Real offset from the batch while collecting, from the parameter afterwards."""
        statistic = self.collect(x)
        return self.value if statistic is None else statistic

    def read(self, x: Tensor) -> Tensor:
        """Return the real offset: of the batch, the average or the parameter; training collects."""
        if self.training:
            offset = self.training_forward(x)
        else:
            offset = self.running_statistic() if self.collecting else self.value
        return abs_binary_sign_grad(widened(offset))

    def forward(self, x: Tensor, scale: Tensor, bit_width: Tensor) -> Tensor:
        """Return the zero point, of the shape of ``value``."""
        return self.scale_shift_zero_point(self.read(x), scale, bit_width)


class ParameterFromStatsFromParameterZeroPoint(LearnedValueModule, StatsFromParameterZeroPoint):
    """A learned zero point that starts from a statistic of the quantized parameter itself.

    ``value`` is set from the statistic at the first call; ``|value| / scale + min_int`` is learned.
    Takes the arguments of ``StatsFromParameterZeroPoint``.
    """

    written_in_forward = ("value",)

    def __init__(
        self,
        int_quant: nn.Module,
        quantize_zero_point: bool,
        zero_point_stats_input_view_shape_impl: nn.Module,
        zero_point_stats_input_concat_dim: int,
        zero_point_stats_impl: nn.Module,
        zero_point_shape: tuple[int, ...],
        tracked_parameter_list: Sequence[Tensor],
        scale_shift_zero_point_impl: nn.Module | None = None,
        zero_point_affine_rescaling_init: float | None = None,
        zero_point_affine_shifting_init: float | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(
            int_quant,
            quantize_zero_point,
            zero_point_stats_input_view_shape_impl,
            zero_point_stats_input_concat_dim,
            zero_point_stats_impl,
            zero_point_shape,
            tracked_parameter_list,
            scale_shift_zero_point_impl,
            zero_point_affine_rescaling_init,
            zero_point_affine_shifting_init,
            dtype,
            device,
        )
        self.init_done = False
        self.value = nn.Parameter(torch.zeros(tuple(zero_point_shape), dtype=dtype, device=device))

    def read(self, x: Tensor | None) -> Tensor:
        """Return the real offset, from the parameter; the statistic sets it at the first call."""
        if not self.init_done:
            if on_trial():
                return abs_binary_sign_grad(widened(self.parameter_list_stats(x)))
            with torch.no_grad():
                self.value.copy_(self.parameter_list_stats(x).reshape(self.value.shape))
            self.init_done = True
        return abs_binary_sign_grad(widened(self.value))

    @property
    def has_learned_value(self) -> bool:
        """False until ``value`` was set from the statistic or loaded."""
        return self.init_done

    def forget_learned_value(self) -> None:
        """Take the statistic again at the next call."""
        self.init_done = False

    def on_learned_value_loaded(self, local_metadata: dict[str, Any]) -> None:
        """Keep the loaded zero point instead of taking the statistic again."""
        self.init_done = True


class PreZeroCenterZeroPoint(nn.Module):
    """Zero point that removes the mean of each channel: ``-mean(x) / scale``.

    Args:
        stats_reduce_dim: dimension of the view over which the mean is taken.
        pre_zero_point_stats_input_view_shape_impl: view of ``x``, e.g. ``OverOutputChannelView``.
        pre_zero_point_shape: shape of the result, broadcastable to ``x``; one value per
            leading index of ``x`` by default.

    Reference: Colbert et al., "A2Q+: Improving Accumulator-Aware Weight Quantization", 2024.
    """

    def __init__(
        self,
        stats_reduce_dim: int,
        pre_zero_point_stats_input_view_shape_impl: nn.Module,
        pre_zero_point_shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.stats_reduce_dim = stats_reduce_dim
        self.stats_input_view_shape_impl = pre_zero_point_stats_input_view_shape_impl
        self.shape = None if pre_zero_point_shape is None else tuple(pre_zero_point_shape)

    def get_zero_center(self, x: Tensor) -> Tensor:
        """Return the negated mean of each channel of ``x``, broadcastable to ``x``."""
        x = widened(x)
        view = self.stats_input_view_shape_impl(x)
        mean = view.mean(dim=self.stats_reduce_dim, dtype=summation_dtype(x)).to(x.dtype)
        shape = self.shape or (mean.shape[0],) + (1,) * (x.dim() - 1)
        return -mean.reshape(shape)

    def forward(self, x: Tensor, scale: Tensor, bit_width: Tensor) -> Tensor:
        """Return the zero point in units of ``scale``."""
        return self.get_zero_center(x) / scale


class RuntimeDynamicGroupZeroPoint(nn.Module):
    """Zero point of each group, found anew at each call: ``-stats(view(x)) / scale + min_int``.

    Args:
        input_view_impl: view of ``x`` in groups.
        zero_point_stats_impl: statistic of each group, keeping its dimension.
        int_quant: gives the integer range, the rounding and the clamp.
        quantize_zero_point: round and clamp to the integer range if True.
    """

    def __init__(
        self,
        input_view_impl: nn.Module,
        zero_point_stats_impl: nn.Module,
        int_quant: nn.Module,
        quantize_zero_point: bool,
    ) -> None:
        super().__init__()
        self.input_view_impl = input_view_impl
        self.zero_point_stats_impl = zero_point_stats_impl
        self.scale_shift_zero_point = _ScaleShiftZeroPoint(int_quant, quantize_zero_point)

    def read(self, stats_input: Tensor) -> Tensor:
        """Return the real offset of each group."""
        return -self.zero_point_stats_impl(self.input_view_impl(stats_input))

    def forward(self, stats_input: Tensor, scale: Tensor, bit_width: Tensor) -> Tensor:
        """Return the zero point of each group."""
        return self.scale_shift_zero_point(self.read(stats_input), scale, bit_width)
