"""Cells 27 and 28 of the TVMCon tutorial: quantizers whose scale and bit width are learned."""

from __future__ import annotations

from brevitas.inject.enum import BitWidthImplType, RestrictValueType, ScalingImplType
from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerTensorFloat


class LearnedIntWeightPerChannelFloat(Int8WeightPerTensorFloat):
    scaling_per_output_channel = True
    scaling_impl_type = ScalingImplType.PARAMETER_FROM_STATS
    restrict_scaling_type = RestrictValueType.LOG_FP
    bit_width_impl_type = BitWidthImplType.PARAMETER


class LearnedIntActPerTensorFloat(Int8ActPerTensorFloat):
    bit_width_impl_type = BitWidthImplType.PARAMETER
    restrict_scaling_type = RestrictValueType.LOG_FP
