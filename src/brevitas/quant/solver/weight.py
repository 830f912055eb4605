"""Solver of weight quantizers. Layer: quant (L5)."""

from __future__ import annotations

from typing import Any

from brevitas.core.quant import BinaryQuant, RescalingIntQuant, TernaryQuant
from brevitas.inject import DependencyError, this, value
from brevitas.inject.enum import QuantType, ScalingPerOutputType
from brevitas.proxy.groupwise_int_parameter_quant import GroupwiseWeightQuantProxyFromInjector
from brevitas.proxy.parameter_quant import WeightQuantProxyFromInjector
from brevitas.quant.solver.common import (
    SolveBitWidth,
    SolveIntQuant,
    SolveRestriction,
    SolveRounding,
    SolveStats,
    as_granularity,
    choose,
)
from brevitas.quant.solver.group import SolveWeightGroups, first_module
from brevitas.quant.solver.parameter import SolveParameterScaling, SolveParameterTensorClamp

__all__ = ["WeightQuantSolver"]

#: A quantizer of type FP quantizes nothing. A binary weight learns wherever it is; a clamp that
#: stops it beyond its range is ``ClampedBinaryQuant``, declared as ``tensor_quant``.
_TENSOR_QUANT: dict[QuantType, Any] = {
    QuantType.BINARY: BinaryQuant,
    QuantType.TERNARY: TernaryQuant,
    QuantType.INT: RescalingIntQuant,
    QuantType.FP: None,
}
#: Dimension along which the views of weights that share a quantizer are joined.
_CONCAT_DIM: dict[ScalingPerOutputType, Any] = {
    ScalingPerOutputType.CHANNEL: 1,
    ScalingPerOutputType.GROUP: this.group_elements_dim,
}
_PROXY: dict[ScalingPerOutputType, type[WeightQuantProxyFromInjector]] = {
    ScalingPerOutputType.GROUP: GroupwiseWeightQuantProxyFromInjector
}


class SolveWeightShape(SolveWeightGroups):
    """What the granularity of a scale needs to know of the layer and its weight."""

    @value
    def output_channel_dim(module: Any) -> int:
        return first_module(module).output_channel_dim

    @value
    def weight_ndims(tracked_parameter_list: Any) -> int:
        return tracked_parameter_list[0].dim()

    @value
    def out_channels(
        tracked_parameter_list: Any, output_channel_dim: int, scaling_per_output: Any = None
    ) -> int:
        shapes = [tuple(weight.shape) for weight in tracked_parameter_list]
        kinds = {(len(shape), shape[output_channel_dim]) for shape in shapes}
        if as_granularity(scaling_per_output) is ScalingPerOutputType.CHANNEL and len(kinds) > 1:
            raise DependencyError(
                f"a scale per output channel is shared by weights of shapes {shapes}: expected as "
                "many dimensions and output channels in each; share a scale per tensor, or give "
                "each layer its own quantizer."
            )
        return shapes[0][output_channel_dim]

    @value
    def scaling_per_output_channel_shape(
        weight_ndims: int, output_channel_dim: int, out_channels: int
    ) -> tuple[int, ...]:
        is_channel = (dim == output_channel_dim for dim in range(weight_ndims))
        return tuple(out_channels if channel else 1 for channel in is_channel)

    @value
    def scaling_stats_permute_dims(
        weight_ndims: int, output_channel_dim: int
    ) -> tuple[int, ...] | None:
        if output_channel_dim == 0:
            return None
        others = (dim for dim in range(weight_ndims) if dim != output_channel_dim)
        return (output_channel_dim, *others)

    @value
    def scaling_stats_input_concat_dim(scaling_per_output: Any) -> Any:
        return _CONCAT_DIM.get(as_granularity(scaling_per_output), 0)


class SolveWeightTensorQuant(SolveIntQuant):
    """``quant_type`` -> ``tensor_quant`` of a weight."""

    @value
    def tensor_quant(quant_type: Any = None) -> Any:
        return choose(_TENSOR_QUANT, quant_type, "quant_type")


class WeightQuantSolver(
    SolveWeightTensorQuant,
    SolveParameterScaling,
    SolveParameterTensorClamp,
    SolveRestriction,
    SolveStats,
    SolveBitWidth,
    SolveRounding,
    SolveWeightShape,
):
    """Base of weight quantizers that are declared by enums.

    Example:
        >>> from brevitas.inject.enum import *
        >>> from brevitas.core.zero_point import ZeroZeroPoint
        >>> class MyWeightQuant(WeightQuantSolver):
        ...     quant_type = QuantType.INT
        ...     bit_width_impl_type = BitWidthImplType.CONST
        ...     float_to_int_impl_type = FloatToIntImplType.ROUND
        ...     scaling_impl_type = ScalingImplType.STATS
        ...     scaling_stats_op = StatsOp.MAX
        ...     restrict_scaling_type = RestrictValueType.FP
        ...     scaling_per_output_type = ScalingPerOutputType.TENSOR
        ...     zero_point_impl = ZeroZeroPoint
        ...     bit_width, narrow_range, signed = 8, True, True
        >>> MyWeightQuant.proxy_class.__name__
        'WeightQuantProxyFromInjector'
    """

    @value
    def proxy_class(scaling_per_output: Any = None) -> type[WeightQuantProxyFromInjector]:
        return _PROXY.get(as_granularity(scaling_per_output), WeightQuantProxyFromInjector)
