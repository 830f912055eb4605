"""The small declarations that predefined quantizers are combined from. Layer: quant (L5)."""

from __future__ import annotations

from brevitas.core.function_wrapper import CeilSte, Identity
from brevitas.core.quant import ClampedBinaryQuant
from brevitas.core.restrict_val import FloatRestrictValue as FloatRestrictValue
from brevitas.core.stats import (
    MSE,
    AbsMax,
    AbsMinMax,
    HalfQuadraticOptimizerScale,
    HalfQuadraticOptimizerZeroPoint,
    MSEUniformStepBase,
    NegativeMinOrZero,
    NegativePercentileOrZero,
)
from brevitas.core.zero_point import (
    ParameterFromRuntimeZeroPoint,
    ParameterFromStatsFromParameterZeroPoint,
    StatsFromParameterZeroPoint,
    ZeroZeroPoint,
)
from brevitas.inject import ExtendedInjector, this
from brevitas.inject.enum import (
    BitWidthImplType,
    FloatToIntImplType,
    QuantType,
    RestrictValueType,
    ScalingImplType,
    ScalingPerOutputType,
    StatsOp,
)
from brevitas.quant._decoupled import (
    AccumulatorAwarePerChannelPreNorm,
    AccumulatorAwareWeightQuant,
    AccumulatorAwareZeroCenterPerChannelPreNorm,
    AccumulatorAwareZeroCenterWeightQuant,
    PerChannelL1Norm,
    PerChannelL2Norm,
    PerChannelPreNorm,
    SolvePostScaleGranularity,
    WeightNormPerChannelFloatDecoupled,
    WeightPerChannelFloatDecoupled,
    WeightPerTensorFloatDecoupledL2Param,
)

__all__ = [
    "AccumulatorAwarePerChannelPreNorm",
    "AccumulatorAwareWeightQuant",
    "AccumulatorAwareZeroCenterPerChannelPreNorm",
    "AccumulatorAwareZeroCenterWeightQuant",
    "BatchQuantStatsScaling1d",
    "BatchQuantStatsScaling2d",
    "HQOActZeroPoint",
    "HQOAsymmetricScale",
    "HQOScale",
    "HQOSymmetricScale",
    "HQOWeightZeroPoint",
    "HQOZeroPoint",
    "IntQuant",
    "MSEActZeroPoint",
    "MSEAsymmetricScale",
    "MSEAsymmetricScaleSubInjector",
    "MSESubInjector",
    "MSESymmetricScale",
    "MSESymmetricScaleSubInjector",
    "MSEWeightZeroPoint",
    "MSEZeroPoint",
    "MSEZeroPointSubInjector",
    "MaxStatsScaling",
    "MinMaxStatsScaling",
    "NarrowIntQuant",
    "ParamFromRuntimeMinMaxScaling",
    "ParamFromRuntimePercentileIntervalScaling",
    "ParamFromRuntimePercentileScaling",
    "ParamMinMaxInitScaling",
    "PerChannelFloatScaling8bit",
    "PerChannelL1Norm",
    "PerChannelL2Norm",
    "PerChannelPoTScaling8bit",
    "PerChannelPreNorm",
    "PerTensorConstScaling2bit",
    "PerTensorFloatScaling8bit",
    "PerTensorPoTScaling8bit",
    "ShiftedMinUintQuant",
    "ShiftedParamFromPercentileUintQuant",
    "SignedBinaryClampedConst",
    "SolvePostScaleGranularity",
    "UintQuant",
    "WeightNormPerChannelFloatDecoupled",
    "WeightPerChannelFloatDecoupled",
    "WeightPerTensorFloatDecoupledL2Param",
]


class MaxStatsScaling(ExtendedInjector):
    """Scale from the largest magnitude."""

    scaling_impl_type = ScalingImplType.STATS
    scaling_stats_op = StatsOp.MAX
    scaling_min_val = 1e-10


class MinMaxStatsScaling(ExtendedInjector):
    """Scale from the distance between the smallest and the largest value."""

    scaling_impl_type = ScalingImplType.STATS
    scaling_stats_op = StatsOp.MIN_MAX
    scaling_min_val = 1e-10


class ParamFromRuntimePercentileScaling(ExtendedInjector):
    """Learned scale that starts from a percentile of the magnitudes."""

    scaling_impl_type = ScalingImplType.PARAMETER_FROM_STATS
    scaling_stats_op = StatsOp.PERCENTILE
    high_percentile_q = 99.999
    collect_stats_steps = 300
    scaling_min_val = 1e-10


class ParamFromRuntimePercentileIntervalScaling(ExtendedInjector):
    """Learned scale that starts from the distance between two percentiles."""

    scaling_impl_type = ScalingImplType.PARAMETER_FROM_STATS
    scaling_stats_op = StatsOp.PERCENTILE_INTERVAL
    high_percentile_q = 99.999
    low_percentile_q = 0.001
    collect_stats_steps = 300
    scaling_min_val = 1e-10


class ParamFromRuntimeMinMaxScaling(ExtendedInjector):
    """Learned scale that starts from the distance between the smallest and the largest value."""

    scaling_impl_type = ScalingImplType.PARAMETER_FROM_STATS
    scaling_stats_op = StatsOp.MIN_MAX
    collect_stats_steps = 300
    scaling_min_val = 1e-10


class ParamMinMaxInitScaling(ExtendedInjector):
    """Learned scale that starts from ``min_val`` and ``max_val`` given by the user."""

    scaling_impl_type = ScalingImplType.PARAMETER


class BatchQuantStatsScaling1d(ExtendedInjector):
    """Scale from the mean over channels of each batch's maxima, ``[N, C, L]``."""

    scaling_impl_type = ScalingImplType.AFFINE_STATS
    scaling_stats_op = StatsOp.MAX_AVE
    scaling_stats_momentum = None
    scaling_stats_permute_dims = (1, 0, 2)
    scaling_min_val = 1e-10
    affine_shift_scale = False


class BatchQuantStatsScaling2d(ExtendedInjector):
    """Scale from the mean over channels of each batch's maxima, ``[N, C, H, W]``."""

    scaling_impl_type = ScalingImplType.AFFINE_STATS
    scaling_stats_op = StatsOp.MAX_AVE
    scaling_stats_momentum = None
    scaling_stats_permute_dims = (1, 0, 2, 3)
    scaling_min_val = 1e-10
    affine_shift_scale = False


class IntQuant(ExtendedInjector):
    """Signed integers ``[-2**(b-1), 2**(b-1) - 1]``, symmetric."""

    quant_type = QuantType.INT
    bit_width_impl_type = BitWidthImplType.CONST
    float_to_int_impl_type = FloatToIntImplType.ROUND
    narrow_range = False
    signed = True
    zero_point_impl = ZeroZeroPoint


class NarrowIntQuant(ExtendedInjector):
    """Signed integers ``[-2**(b-1) + 1, 2**(b-1) - 1]``, symmetric."""

    quant_type = QuantType.INT
    bit_width_impl_type = BitWidthImplType.CONST
    float_to_int_impl_type = FloatToIntImplType.ROUND
    narrow_range = True
    signed = True
    zero_point_impl = ZeroZeroPoint


class UintQuant(ExtendedInjector):
    """Unsigned integers ``[0, 2**b - 1]`` without zero point."""

    quant_type = QuantType.INT
    bit_width_impl_type = BitWidthImplType.CONST
    float_to_int_impl_type = FloatToIntImplType.ROUND
    narrow_range = False
    signed = False
    zero_point_impl = ZeroZeroPoint


class ShiftedMinUintQuant(ExtendedInjector):
    """Unsigned integers of a parameter, with a zero point from its smallest value."""

    quant_type = QuantType.INT
    bit_width_impl_type = BitWidthImplType.CONST
    float_to_int_impl_type = FloatToIntImplType.ROUND
    narrow_range = False
    signed = False
    quantize_zero_point = True
    zero_point_impl = StatsFromParameterZeroPoint
    zero_point_stats_impl = NegativeMinOrZero
    zero_point_shape = this.scaling_shape
    zero_point_stats_input_view_shape_impl = this.scaling_stats_input_view_shape_impl
    zero_point_stats_input_concat_dim = this.scaling_stats_input_concat_dim


class ShiftedParamFromPercentileUintQuant(ExtendedInjector):
    """Unsigned integers of an activation, with a learned zero point from a low percentile."""

    quant_type = QuantType.INT
    bit_width_impl_type = BitWidthImplType.CONST
    float_to_int_impl_type = FloatToIntImplType.ROUND
    narrow_range = False
    signed = False
    quantize_zero_point = True
    zero_point_impl = ParameterFromRuntimeZeroPoint
    zero_point_stats_impl = NegativePercentileOrZero
    low_percentile_q = 0.001
    zero_point_shape = this.scaling_shape
    zero_point_stats_input_view_shape_impl = this.scaling_stats_input_view_shape_impl


class PerTensorFloatScaling8bit(ExtendedInjector):
    """One floating-point scale, 8 bits."""

    scaling_per_output_type = ScalingPerOutputType.TENSOR
    restrict_scaling_type = RestrictValueType.FP
    bit_width = 8


class PerChannelFloatScaling8bit(ExtendedInjector):
    """One floating-point scale per output channel, 8 bits."""

    scaling_per_output_type = ScalingPerOutputType.CHANNEL
    restrict_scaling_type = RestrictValueType.FP
    bit_width = 8


class PerTensorPoTScaling8bit(ExtendedInjector):
    """One power-of-two scale, rounded up, 8 bits."""

    scaling_per_output_type = ScalingPerOutputType.TENSOR
    restrict_scaling_type = RestrictValueType.POWER_OF_TWO
    restrict_value_float_to_int_impl = CeilSte
    bit_width = 8


class PerChannelPoTScaling8bit(ExtendedInjector):
    """One power-of-two scale per output channel, rounded up, 8 bits."""

    scaling_per_output_type = ScalingPerOutputType.CHANNEL
    restrict_scaling_type = RestrictValueType.POWER_OF_TWO
    restrict_value_float_to_int_impl = CeilSte
    bit_width = 8


class PerTensorConstScaling2bit(ExtendedInjector):
    """One constant scale, 2 bits."""

    scaling_per_output_type = ScalingPerOutputType.TENSOR
    restrict_scaling_type = RestrictValueType.FP
    scaling_impl_type = ScalingImplType.CONST
    bit_width = 2


class SignedBinaryClampedConst(ExtendedInjector):
    """Two values, minus and plus a constant scale, learned within the range between them."""

    tensor_quant = ClampedBinaryQuant
    float_to_int_impl_type = FloatToIntImplType.ROUND
    scaling_impl_type = ScalingImplType.CONST
    restrict_scaling_type = RestrictValueType.FP
    scaling_per_output_type = ScalingPerOutputType.TENSOR
    narrow_range = True
    signed = True


class MSESubInjector(ExtendedInjector):
    """A statistic of least squared error: 20 candidates, all of which are tried.

    It is declared inside of a quantizer, whose names it reads; what it starts from is missing.
    """

    proxy_module = (this << 1).proxy_module
    inner_stats_input_view_shape_impl = (this << 1).inner_stats_input_view_shape_impl
    stats_reduce_dim = (this << 1).stats_reduce_dim
    keepdim = (this << 1).keepdim
    mse_base_op = MSEUniformStepBase
    mse_iters = 20
    mse_search_method = "grid"
    stats_impl = MSE


class MSESymmetricScaleSubInjector(MSESubInjector):
    """Candidates for the largest magnitude."""

    mse_init_op = AbsMax


class MSEAsymmetricScaleSubInjector(MSESubInjector):
    """Candidates for the distance between the smallest and the largest value."""

    mse_init_op = AbsMinMax


class MSEZeroPointSubInjector(MSESubInjector):
    """Candidates for the smallest value, at the scale that was found."""

    mse_init_op = NegativeMinOrZero


class MSESymmetricScale(ExtendedInjector):
    """Learned scale that starts where the squared error is least, without zero point.

    The statistic sees the tensor as it is, since it quantizes it.
    """

    mse_scale = MSESymmetricScaleSubInjector
    scaling_impl_type = ScalingImplType.PARAMETER_FROM_STATS
    scaling_stats_input_view_shape_impl = Identity
    scaling_stats_impl = this.mse_scale.stats_impl


class MSEAsymmetricScale(ExtendedInjector):
    """Learned scale that starts where the squared error is least, with a zero point.

    The statistic sees the tensor as it is, since it quantizes it.
    """

    mse_scale = MSEAsymmetricScaleSubInjector
    scaling_impl_type = ScalingImplType.PARAMETER_FROM_STATS
    scaling_stats_input_view_shape_impl = Identity
    scaling_stats_impl = this.mse_scale.stats_impl


class MSEZeroPoint(ExtendedInjector):
    """Zero point that starts where the squared error is least."""

    mse_zero_point = MSEZeroPointSubInjector
    zero_point_stats_input_view_shape_impl = Identity
    zero_point_stats_impl = this.mse_zero_point.stats_impl


class MSEWeightZeroPoint(MSEZeroPoint):
    """Learned zero point of a parameter that starts where the squared error is least."""

    zero_point_impl = ParameterFromStatsFromParameterZeroPoint


class MSEActZeroPoint(MSEZeroPoint):
    """Learned zero point of an activation that starts where the squared error is least."""

    zero_point_impl = ParameterFromRuntimeZeroPoint


class HQOScale(ExtendedInjector):
    """Learned scale that starts from half-quadratic optimization."""

    scaling_impl_type = ScalingImplType.PARAMETER_FROM_STATS
    scaling_stats_input_view_shape_impl = Identity
    stats_impl_scale = HalfQuadraticOptimizerScale
    scaling_stats_impl = this.stats_impl_scale


class HQOSymmetricScale(HQOScale):
    """Scale by half-quadratic optimization, which starts from the largest magnitude."""

    hqo_init_op_scale = AbsMax


class HQOAsymmetricScale(HQOScale):
    """Scale by half-quadratic optimization, which starts from the distance of the extremes."""

    hqo_init_op_scale = AbsMinMax


class HQOZeroPoint(ExtendedInjector):
    """Zero point by half-quadratic optimization, a real number."""

    hqo_init_op_zp = NegativeMinOrZero
    stats_impl_zp = HalfQuadraticOptimizerZeroPoint
    zero_point_stats_input_view_shape_impl = Identity
    zero_point_stats_impl = this.stats_impl_zp


class HQOWeightZeroPoint(HQOZeroPoint):
    """Learned zero point of a parameter that starts from half-quadratic optimization."""

    zero_point_impl = ParameterFromStatsFromParameterZeroPoint


class HQOActZeroPoint(HQOZeroPoint):
    """Learned zero point of an activation that starts from half-quadratic optimization."""

    zero_point_impl = ParameterFromRuntimeZeroPoint
