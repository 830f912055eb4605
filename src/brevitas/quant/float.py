"""8-bit minifloat quantizers without codes for infinity and NaN. Layer: quant (L5)."""

from __future__ import annotations

from brevitas.inject.enum import ScalingPerOutputType
from brevitas.quant.base import MSESymmetricScale
from brevitas.quant.float_base import (
    FloatActBase,
    FloatWeightBase,
    Fp8e4m3Mixin,
    Fp8e5m2Mixin,
    ScaledFloatActBase,
    ScaledFloatWeightBase,
)

__all__ = [
    "Fp8e4m3Act",
    "Fp8e4m3ActPerChannelFloat2d",
    "Fp8e4m3ActPerChannelFloat2dMSE",
    "Fp8e4m3ActPerTensorFloat",
    "Fp8e4m3ActPerTensorFloatMSE",
    "Fp8e4m3Weight",
    "Fp8e4m3WeightPerChannelFloat",
    "Fp8e4m3WeightPerChannelFloatMSE",
    "Fp8e4m3WeightPerTensorFloat",
    "Fp8e4m3WeightPerTensorFloatMSE",
    "Fp8e5m2Act",
    "Fp8e5m2ActPerChannelFloat2d",
    "Fp8e5m2ActPerChannelFloat2dMSE",
    "Fp8e5m2ActPerTensorFloat",
    "Fp8e5m2ActPerTensorFloatMSE",
    "Fp8e5m2Weight",
    "Fp8e5m2WeightPerChannelFloat",
    "Fp8e5m2WeightPerTensorFloat",
]


class Fp8e4m3Act(Fp8e4m3Mixin, FloatActBase):
    """8-bit e4m3 activation, without a scale."""

    scaling_per_output_type = ScalingPerOutputType.TENSOR


class Fp8e4m3ActPerChannelFloat2d(Fp8e4m3Mixin, ScaledFloatActBase):
    """8-bit e4m3 activation, one scale per channel of ``[N, C, H, W]``, learned."""

    scaling_per_output_type = ScalingPerOutputType.CHANNEL
    scaling_stats_permute_dims = (1, 0, 2, 3)


class Fp8e4m3ActPerTensorFloat(Fp8e4m3Mixin, ScaledFloatActBase):
    """8-bit e4m3 activation, one scale, learned."""

    scaling_per_output_type = ScalingPerOutputType.TENSOR


class Fp8e4m3Weight(Fp8e4m3Mixin, FloatWeightBase):
    """8-bit e4m3 weight, without a scale."""

    scaling_per_output_type = ScalingPerOutputType.TENSOR


class Fp8e4m3WeightPerChannelFloat(Fp8e4m3Mixin, ScaledFloatWeightBase):
    """8-bit e4m3 weight, one scale per output channel from the largest magnitude."""

    scaling_per_output_type = ScalingPerOutputType.CHANNEL


class Fp8e4m3WeightPerTensorFloat(Fp8e4m3Mixin, ScaledFloatWeightBase):
    """8-bit e4m3 weight, one scale from the largest magnitude."""

    scaling_per_output_type = ScalingPerOutputType.TENSOR


class Fp8e5m2Act(Fp8e5m2Mixin, FloatActBase):
    """8-bit e5m2 activation, without a scale."""

    scaling_per_output_type = ScalingPerOutputType.TENSOR


class Fp8e5m2ActPerChannelFloat2d(Fp8e5m2Mixin, ScaledFloatActBase):
    """8-bit e5m2 activation, one scale per channel of ``[N, C, H, W]``, learned."""

    scaling_per_output_type = ScalingPerOutputType.CHANNEL
    scaling_stats_permute_dims = (1, 0, 2, 3)


class Fp8e5m2ActPerTensorFloat(Fp8e5m2Mixin, ScaledFloatActBase):
    """8-bit e5m2 activation, one scale, learned."""

    scaling_per_output_type = ScalingPerOutputType.TENSOR


class Fp8e5m2Weight(Fp8e5m2Mixin, FloatWeightBase):
    """8-bit e5m2 weight, without a scale."""

    scaling_per_output_type = ScalingPerOutputType.TENSOR


class Fp8e5m2WeightPerChannelFloat(Fp8e5m2Mixin, ScaledFloatWeightBase):
    """8-bit e5m2 weight, one scale per output channel from the largest magnitude."""

    scaling_per_output_type = ScalingPerOutputType.CHANNEL


class Fp8e5m2WeightPerTensorFloat(Fp8e5m2Mixin, ScaledFloatWeightBase):
    """8-bit e5m2 weight, one scale from the largest magnitude."""

    scaling_per_output_type = ScalingPerOutputType.TENSOR


class Fp8e4m3ActPerChannelFloat2dMSE(Fp8e4m3Mixin, MSESymmetricScale, ScaledFloatActBase):
    """8-bit e4m3 activation, one scale per channel of ``[N, C, H, W]`` of least squared error."""

    scaling_per_output_type = ScalingPerOutputType.CHANNEL
    scaling_stats_permute_dims = (1, 0, 2, 3)


class Fp8e4m3ActPerTensorFloatMSE(Fp8e4m3Mixin, MSESymmetricScale, ScaledFloatActBase):
    """8-bit e4m3 activation, one scale of least squared error."""

    scaling_per_output_type = ScalingPerOutputType.TENSOR


class Fp8e4m3WeightPerChannelFloatMSE(Fp8e4m3Mixin, MSESymmetricScale, ScaledFloatWeightBase):
    """8-bit e4m3 weight, one scale per output channel of least squared error."""

    scaling_per_output_type = ScalingPerOutputType.CHANNEL


class Fp8e4m3WeightPerTensorFloatMSE(Fp8e4m3Mixin, MSESymmetricScale, ScaledFloatWeightBase):
    """8-bit e4m3 weight, one scale of least squared error."""

    scaling_per_output_type = ScalingPerOutputType.TENSOR


class Fp8e5m2ActPerChannelFloat2dMSE(Fp8e5m2Mixin, MSESymmetricScale, ScaledFloatActBase):
    """8-bit e5m2 activation, one scale per channel of ``[N, C, H, W]`` of least squared error."""

    scaling_per_output_type = ScalingPerOutputType.CHANNEL
    scaling_stats_permute_dims = (1, 0, 2, 3)


class Fp8e5m2ActPerTensorFloatMSE(Fp8e5m2Mixin, MSESymmetricScale, ScaledFloatActBase):
    """8-bit e5m2 activation, one scale of least squared error."""

    scaling_per_output_type = ScalingPerOutputType.TENSOR
