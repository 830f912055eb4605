"""Solvers shared by weights and biases: the quantized tensor is a parameter. Layer: quant (L5)."""

from __future__ import annotations

from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from brevitas.core.function_wrapper import TensorClamp, TensorClampSte
from brevitas.core.scaling import (
    ConstScaling,
    ParameterFromStatsFromParameterScaling,
    ParameterScaling,
    StatsFromParameterScaling,
)
from brevitas.inject import DependencyError, ExtendedInjector, this, value
from brevitas.inject.enum import BitWidthImplType, ScalingImplType, ScalingPerOutputType
from brevitas.quant.solver.common import as_granularity, as_member, choose
from brevitas.quant.solver.group import first_module

__all__ = ["SolveParameterScaling", "SolveParameterTensorClamp", "first_module"]

_SCALING: dict[ScalingImplType, type[nn.Module]] = {
    ScalingImplType.HE: ConstScaling,
    ScalingImplType.CONST: ConstScaling,
    ScalingImplType.STATS: StatsFromParameterScaling,
    ScalingImplType.AFFINE_STATS: StatsFromParameterScaling,
    ScalingImplType.PARAMETER: ParameterScaling,
    ScalingImplType.PARAMETER_FROM_STATS: ParameterFromStatsFromParameterScaling,
}
_SCALING_SHAPE: dict[ScalingPerOutputType, Any] = {
    ScalingPerOutputType.CHANNEL: this.scaling_per_output_channel_shape,
    ScalingPerOutputType.GROUP: this.scaling_per_group_shape,
}
#: A clamped element passes its gradient on to the scale where the scale is learned.
_LEARNED_SCALING = (
    ScalingImplType.AFFINE_STATS,
    ScalingImplType.PARAMETER,
    ScalingImplType.PARAMETER_FROM_STATS,
)


class SolveParameterScaling(ExtendedInjector):
    """``scaling_impl_type`` -> ``scaling_impl`` of a parameter, with its start and shape."""

    @value
    def scaling_impl(scaling_impl_type: Any = None) -> Any:
        return choose(_SCALING, scaling_impl_type, "scaling_impl_type")

    @value
    def scaling_init(
        scaling_impl_type: Any,
        tracked_parameter_list: Any,
        scaling_const: float | Tensor | None = None,
        scaling_init_impl: float | Tensor | None = None,
    ) -> float | Tensor:
        kind = as_member(ScalingImplType, scaling_impl_type, "scaling_impl_type")
        if kind is ScalingImplType.HE:
            return _he_scale(tracked_parameter_list[0])
        for start in (scaling_init_impl, scaling_const):
            if start is not None:
                return start
        raise DependencyError(
            f"scaling_impl_type={scaling_impl_type} needs a start value: declare `scaling_init` "
            "(a number, a tensor or a `value` function of `module`) or `scaling_const`."
        )

    @value
    def scaling_shape(scaling_per_output: Any = None) -> Any:
        return _SCALING_SHAPE.get(as_granularity(scaling_per_output), ())

    @value
    def learned_round_init(tracked_parameter_list: Any) -> Tensor:
        return torch.zeros_like(tracked_parameter_list[0].detach())

    @value
    def dtype(tracked_parameter_list: Any) -> torch.dtype:
        return tracked_parameter_list[0].dtype

    @value
    def device(tracked_parameter_list: Any) -> torch.device:
        return tracked_parameter_list[0].device


def _he_scale(parameter: Tensor) -> float:
    """Standard deviation of the He initialization, ``sqrt(2 / fan_in)``."""
    fan_in = parameter[0].numel() if parameter.dim() > 1 else parameter.numel()
    return sqrt(2.0 / fan_in)


class SolveParameterTensorClamp(ExtendedInjector):
    """Clamp with a gradient for the bounds where scale or bit width are learned."""

    @value
    def tensor_clamp_impl(scaling_impl_type: Any = None, bit_width_impl_type: Any = None) -> Any:
        bit_width_kind = as_member(BitWidthImplType, bit_width_impl_type, "bit_width_impl_type")
        scaling_kind = as_member(ScalingImplType, scaling_impl_type, "scaling_impl_type")
        learned = bit_width_kind is BitWidthImplType.PARAMETER or scaling_kind in _LEARNED_SCALING
        return TensorClamp if learned else TensorClampSte
