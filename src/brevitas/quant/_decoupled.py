"""Declarations of weights whose integers are found on one grid and placed on another.

Layer: quant (L5). The bit width is for the quantizers that derive from these.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from brevitas.core.bit_width import BitWidthConst, BitWidthStatefulConst
from brevitas.core.function_wrapper import (
    OverOutputChannelView,
    RoundToZeroSte,
    TensorClamp,
    TensorClampSte,
)
from brevitas.core.function_wrapper.misc import Identity
from brevitas.core.quant import (
    DecoupledIntQuant,
    DecoupledRescalingIntQuant,
    DecoupledRescalingIntQuantWithInput,
)
from brevitas.core.restrict_val import FloatRestrictValue, LogFloatRestrictValue
from brevitas.core.scaling import (
    SCALING_STATS_REDUCE_DIM,
    AccumulatorAwareParameterPreScaling,
    AccumulatorAwareZeroCenterParameterPreScaling,
    IntScaling,
    ParameterFromStatsFromParameterScaling,
    ParameterPreScalingWeightNorm,
    ParameterScaling,
    StatsFromParameterScaling,
)
from brevitas.core.stats import AbsMax, AbsMaxL2, L1Norm, L2Norm
from brevitas.core.utils import SingleArgStatelessBuffer
from brevitas.core.zero_point import PreZeroCenterZeroPoint, ZeroZeroPoint
from brevitas.inject import ExtendedInjector, this, value
from brevitas.inject.enum import ScalingImplType, ScalingPerOutputType, StatsOp
from brevitas.proxy.parameter_quant import (
    DecoupledWeightQuantProxyFromInjector,
    DecoupledWeightQuantWithInputProxyFromInjector,
)
from brevitas.quant.solver.common import SolveRounding, SolveStats
from brevitas.quant.solver.parameter import SolveParameterScaling
from brevitas.quant.solver.weight import SolveWeightShape

__all__ = [
    "AccumulatorAwarePerChannelPreNorm",
    "AccumulatorAwareWeightQuant",
    "AccumulatorAwareZeroCenterPerChannelPreNorm",
    "AccumulatorAwareZeroCenterWeightQuant",
    "PerChannelL1Norm",
    "PerChannelL2Norm",
    "PerChannelPreNorm",
    "SolvePostScaleGranularity",
    "WeightNormPerChannelFloatDecoupled",
    "WeightPerChannelFloatDecoupled",
    "WeightPerTensorFloatDecoupledL2Param",
]

#: The quantizer around a nested declaration.
outer = this << 1


class WeightPerTensorFloatDecoupledL2Param(SolveRounding, SolveParameterScaling, SolveWeightShape):
    """Weight with one pre-scale from its statistics, and one learned scale that starts there.

    The statistic is the root mean square of the channels' largest magnitudes.
    """

    proxy_class = DecoupledWeightQuantProxyFromInjector
    tensor_quant = DecoupledRescalingIntQuant
    decoupled_int_quant = DecoupledIntQuant
    tensor_clamp_impl: Any = TensorClampSte
    input_view_impl: Any = Identity
    bit_width_impl = BitWidthConst
    narrow_range = True
    signed = True
    scaling_impl_type = ScalingImplType.PARAMETER_FROM_STATS
    scaling_impl: Any = ParameterFromStatsFromParameterScaling
    pre_scaling_impl = StatsFromParameterScaling
    int_scaling_impl = IntScaling
    restrict_scaling_impl = FloatRestrictValue
    scaling_stats_impl = AbsMaxL2
    scaling_stats_input_view_shape_impl = OverOutputChannelView
    scaling_stats_input_concat_dim: Any = 0
    scaling_per_output_type = ScalingPerOutputType.TENSOR
    scaling_shape: Any = ()
    scaling_min_val = 1e-10
    stats_reduce_dim = SCALING_STATS_REDUCE_DIM
    permute_dims = this.scaling_stats_permute_dims
    zero_point_impl = ZeroZeroPoint
    pre_zero_point_impl = ZeroZeroPoint


class WeightPerChannelFloatDecoupled(
    SolveRounding, SolveStats, SolveParameterScaling, SolveWeightShape
):
    """Weight with a pre-scale per channel from its largest magnitude, and a learned scale.

    The scales of the channels start from the pre-scales.
    """

    proxy_class = DecoupledWeightQuantProxyFromInjector
    tensor_quant = DecoupledRescalingIntQuant
    decoupled_int_quant = DecoupledIntQuant
    tensor_clamp_impl: Any = TensorClampSte
    input_view_impl: Any = Identity
    bit_width_impl = BitWidthConst
    narrow_range = True
    signed = True
    scaling_impl_type = ScalingImplType.PARAMETER_FROM_STATS
    scaling_impl: Any = ParameterFromStatsFromParameterScaling
    pre_scaling_impl = StatsFromParameterScaling
    int_scaling_impl = IntScaling
    restrict_scaling_impl = FloatRestrictValue
    scaling_stats_impl: Any = AbsMax
    scaling_stats_input_view_shape_impl: Any = OverOutputChannelView
    scaling_per_output_type = ScalingPerOutputType.CHANNEL
    scaling_min_val = 1e-10
    stats_reduce_dim: Any = SCALING_STATS_REDUCE_DIM
    zero_point_impl = ZeroZeroPoint
    pre_zero_point_impl = ZeroZeroPoint


class PerChannelL1Norm(ExtendedInjector):
    """Sum of the magnitudes of each output channel."""

    normalize_stats_impl = L1Norm
    stats_reduce_dim = SCALING_STATS_REDUCE_DIM


class PerChannelL2Norm(ExtendedInjector):
    """Euclidean norm of each output channel."""

    normalize_stats_impl = L2Norm
    stats_reduce_dim = SCALING_STATS_REDUCE_DIM


class PerChannelPreNorm(ExtendedInjector):
    """Pre-scale per output channel from a norm, nested in the quantizer that it belongs to.

    Nested, it has a learned scale of its own beside that of the quantizer.
    """

    pre_scaling_impl = ParameterPreScalingWeightNorm
    scaling_stats_input_view_shape_impl = OverOutputChannelView
    permute_dims = outer.permute_dims
    pre_scaling_shape = outer.pre_scaling_shape
    pre_scaling_min_val = outer.pre_scaling_min_val
    scaling_impl = outer.scaling_impl
    normalize_stats_impl = outer.normalize_stats_impl
    tracked_parameter_list = outer.tracked_parameter_list


class AccumulatorAwarePerChannelPreNorm(PerChannelPreNorm):
    """Pre-scale per output channel that keeps dot products within an accumulator."""

    pre_scaling_impl = AccumulatorAwareParameterPreScaling
    accumulator_bit_width_impl = outer.accumulator_bit_width_impl
    restrict_pre_scaling_impl = outer.restrict_pre_scaling_impl


class AccumulatorAwareZeroCenterPerChannelPreNorm(AccumulatorAwarePerChannelPreNorm):
    """As ``AccumulatorAwarePerChannelPreNorm``, for channels without their mean."""

    pre_scaling_impl = AccumulatorAwareZeroCenterParameterPreScaling
    pre_zero_point_impl = PreZeroCenterZeroPoint
    pre_zero_point_shape = this.pre_scaling_shape
    pre_zero_point_stats_input_view_shape_impl = this.scaling_stats_input_view_shape_impl
    stats_reduce_dim = SCALING_STATS_REDUCE_DIM


class SolvePostScaleGranularity(ExtendedInjector):
    """One scale, or one per channel, behind a pre-scale that is one per channel in any case."""

    @value
    def int_scaling_impl() -> Any:
        # What the scales stand for is one integer step, not the integer limit.
        return SingleArgStatelessBuffer(1.0)

    @value
    def pre_scaling_shape(scaling_per_output_channel_shape: Any) -> Any:
        return scaling_per_output_channel_shape

    @value
    def scaling_init(
        scaling_init_impl: Any,
        tracked_parameter_list: Any,
        bit_width_impl: Any,
        signed: bool,
        narrow_range: bool,
    ) -> Tensor:
        threshold = IntScaling(narrow_range, signed)(bit_width_impl())
        with torch.no_grad():
            return scaling_init_impl(tracked_parameter_list[0], threshold)


class WeightNormPerChannelFloatDecoupled(
    SolvePostScaleGranularity, SolveRounding, SolveStats, SolveParameterScaling, SolveWeightShape
):
    """Weight normalization inside of the quantizer: each channel's norm is learned.

    Both scales are learned as logarithms; they start from the largest magnitude.

    Reference: Salimans and Kingma, "Weight Normalization: A Simple Reparameterization to
    Accelerate Training of Deep Neural Networks", 2016.
    """

    proxy_class = DecoupledWeightQuantProxyFromInjector
    tensor_quant: Any = DecoupledRescalingIntQuant
    decoupled_int_quant = DecoupledIntQuant
    tensor_clamp_impl: Any = TensorClamp
    input_view_impl: Any = Identity
    bit_width_impl = BitWidthConst
    narrow_range = True
    signed = True
    scaling_impl_type = ScalingImplType.PARAMETER
    scaling_impl: Any = ParameterScaling
    scaling_init_impl = StatsFromParameterScaling
    restrict_scaling_impl = LogFloatRestrictValue
    scaling_stats_op = StatsOp.MAX
    scaling_stats_impl: Any = AbsMax
    scaling_per_output_type = ScalingPerOutputType.CHANNEL
    scaling_min_val = 1e-10
    force_parameter = True
    per_channel_norm = PerChannelL2Norm
    normalize_stats_impl = this.per_channel_norm.normalize_stats_impl
    per_channel_pre_norm = PerChannelPreNorm
    pre_scaling_impl = this.per_channel_pre_norm.pre_scaling_impl
    restrict_pre_scaling_impl = LogFloatRestrictValue
    pre_scaling_min_val = 1e-10
    zero_point_impl = ZeroZeroPoint
    pre_zero_point_impl: Any = ZeroZeroPoint


class AccumulatorAwareWeightQuant(WeightNormPerChannelFloatDecoupled):
    """Weight whose dot products never overflow an accumulator of ``accumulator_bit_width`` bits.

    It is quantized for the bits and the sign of the layer's input, which has to be quantized.

    Reference: Colbert et al., "A2Q: Accumulator-Aware Quantization with Guaranteed Overflow
    Avoidance", 2023.
    """

    proxy_class = DecoupledWeightQuantWithInputProxyFromInjector
    tensor_quant = DecoupledRescalingIntQuantWithInput
    float_to_int_impl: Any = RoundToZeroSte
    accumulator_bit_width = 32
    per_channel_norm = PerChannelL1Norm
    per_channel_pre_norm = AccumulatorAwarePerChannelPreNorm

    @value
    def accumulator_bit_width_impl(accumulator_bit_width: int) -> Any:
        return BitWidthStatefulConst(accumulator_bit_width)


class AccumulatorAwareZeroCenterWeightQuant(AccumulatorAwareWeightQuant):
    """As ``AccumulatorAwareWeightQuant``, with the mean of each channel removed before rounding.

    Integers may then be about twice as large at the same accumulator.

    Reference: Colbert et al., "A2Q+: Improving Accumulator-Aware Weight Quantization", 2024.
    """

    per_channel_pre_norm = AccumulatorAwareZeroCenterPerChannelPreNorm
    pre_zero_point_impl = this.per_channel_pre_norm.pre_zero_point_impl
