"""Minifloat quantizers without infinity and negative zero (FNUZ). Layer: quant (L5).

Reference: Noune et al., "8-bit Numerical Formats for Deep Neural Networks", 2022.
"""

from __future__ import annotations

from brevitas.inject import ExtendedInjector, value
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
    "Fp8e4m3FNUZAct",
    "Fp8e4m3FNUZActPerTensorFloat",
    "Fp8e4m3FNUZActPerTensorFloatMSE",
    "Fp8e4m3FNUZWeight",
    "Fp8e4m3FNUZWeightPerChannelFloat",
    "Fp8e4m3FNUZWeightPerChannelFloatMSE",
    "Fp8e4m3FNUZWeightPerTensorFloat",
    "Fp8e4m3FNUZWeightPerTensorFloatMSE",
    "Fp8e5m2FNUZAct",
    "Fp8e5m2FNUZActPerTensorFloat",
    "Fp8e5m2FNUZActPerTensorFloatMSE",
    "Fp8e5m2FNUZWeight",
    "Fp8e5m2FNUZWeightPerChannelFloat",
    "Fp8e5m2FNUZWeightPerChannelFloatMSE",
    "Fp8e5m2FNUZWeightPerTensorFloat",
    "Fp8e5m2FNUZWeightPerTensorFloatMSE",
    "FpFNUZAct",
    "FpFNUZActPerChannelFloat2d",
    "FpFNUZActPerChannelFloat2dMSE",
    "FpFNUZActPerTensorFloat",
    "FpFNUZActPerTensorFloatMSE",
    "FpFNUZMixin",
    "FpFNUZWeight",
    "FpFNUZWeightPerChannelFloat",
    "FpFNUZWeightPerChannelFloatMSE",
    "FpFNUZWeightPerTensorFloat",
    "FpFNUZWeightPerTensorFloatMSE",
]


class FpFNUZMixin(ExtendedInjector):
    """An exponent bias that is one larger than that of IEEE 754."""

    saturating = True

    @value
    def exponent_bias(exponent_bit_width: int) -> int:
        return 2 ** (exponent_bit_width - 1)


class FpFNUZAct(FpFNUZMixin, FloatActBase):
    """FNUZ minifloat activation, without a scale."""

    scaling_per_output_type = ScalingPerOutputType.TENSOR


class FpFNUZActPerChannelFloat2d(FpFNUZMixin, ScaledFloatActBase):
    """FNUZ minifloat activation, one scale per channel of ``[N, C, H, W]``, learned."""

    scaling_per_output_type = ScalingPerOutputType.CHANNEL
    scaling_stats_permute_dims = (1, 0, 2, 3)


class FpFNUZActPerTensorFloat(FpFNUZMixin, ScaledFloatActBase):
    """FNUZ minifloat activation, one scale, learned."""

    scaling_per_output_type = ScalingPerOutputType.TENSOR


class FpFNUZWeight(FpFNUZMixin, FloatWeightBase):
    """FNUZ minifloat weight, without a scale."""

    scaling_per_output_type = ScalingPerOutputType.TENSOR


class FpFNUZWeightPerChannelFloat(FpFNUZMixin, ScaledFloatWeightBase):
    """FNUZ minifloat weight, one scale per output channel from the largest magnitude."""

    scaling_per_output_type = ScalingPerOutputType.CHANNEL


class FpFNUZWeightPerTensorFloat(FpFNUZMixin, ScaledFloatWeightBase):
    """FNUZ minifloat weight, one scale from the largest magnitude."""

    scaling_per_output_type = ScalingPerOutputType.TENSOR


class Fp8e4m3FNUZAct(FpFNUZAct, Fp8e4m3Mixin):
    """FNUZ FP8 e4m3 activation, without a scale."""


class Fp8e4m3FNUZActPerTensorFloat(FpFNUZActPerTensorFloat, Fp8e4m3Mixin):
    """FNUZ FP8 e4m3 activation, one scale, learned."""


class Fp8e4m3FNUZWeight(FpFNUZWeight, Fp8e4m3Mixin):
    """FNUZ FP8 e4m3 weight, without a scale."""


class Fp8e4m3FNUZWeightPerChannelFloat(FpFNUZWeightPerChannelFloat, Fp8e4m3Mixin):
    """FNUZ FP8 e4m3 weight, one scale per output channel from the largest magnitude."""


class Fp8e4m3FNUZWeightPerTensorFloat(FpFNUZWeightPerTensorFloat, Fp8e4m3Mixin):
    """FNUZ FP8 e4m3 weight, one scale from the largest magnitude."""


class Fp8e5m2FNUZAct(FpFNUZAct, Fp8e5m2Mixin):
    """FNUZ FP8 e5m2 activation, without a scale."""


class Fp8e5m2FNUZActPerTensorFloat(FpFNUZActPerTensorFloat, Fp8e5m2Mixin):
    """FNUZ FP8 e5m2 activation, one scale, learned."""


class Fp8e5m2FNUZWeight(FpFNUZWeight, Fp8e5m2Mixin):
    """FNUZ FP8 e5m2 weight, without a scale."""


class Fp8e5m2FNUZWeightPerChannelFloat(FpFNUZWeightPerChannelFloat, Fp8e5m2Mixin):
    """FNUZ FP8 e5m2 weight, one scale per output channel from the largest magnitude."""


class Fp8e5m2FNUZWeightPerTensorFloat(FpFNUZWeightPerTensorFloat, Fp8e5m2Mixin):
    """FNUZ FP8 e5m2 weight, one scale from the largest magnitude."""


class FpFNUZActPerChannelFloat2dMSE(FpFNUZMixin, MSESymmetricScale, ScaledFloatActBase):
    """FNUZ minifloat activation, a scale per channel of ``[N, C, H, W]``, least squared error."""

    scaling_per_output_type = ScalingPerOutputType.CHANNEL
    scaling_stats_permute_dims = (1, 0, 2, 3)


class FpFNUZActPerTensorFloatMSE(FpFNUZMixin, MSESymmetricScale, ScaledFloatActBase):
    """FNUZ minifloat activation, one scale of least squared error."""

    scaling_per_output_type = ScalingPerOutputType.TENSOR


class FpFNUZWeightPerChannelFloatMSE(FpFNUZMixin, MSESymmetricScale, ScaledFloatWeightBase):
    """FNUZ minifloat weight, one scale per output channel of least squared error."""

    scaling_per_output_type = ScalingPerOutputType.CHANNEL


class FpFNUZWeightPerTensorFloatMSE(FpFNUZMixin, MSESymmetricScale, ScaledFloatWeightBase):
    """FNUZ minifloat weight, one scale of least squared error."""

    scaling_per_output_type = ScalingPerOutputType.TENSOR


class Fp8e4m3FNUZActPerTensorFloatMSE(FpFNUZActPerTensorFloatMSE, Fp8e4m3Mixin):
    """FNUZ FP8 e4m3 activation, one scale of least squared error."""


class Fp8e4m3FNUZWeightPerChannelFloatMSE(FpFNUZWeightPerChannelFloatMSE, Fp8e4m3Mixin):
    """FNUZ FP8 e4m3 weight, one scale per output channel of least squared error."""


class Fp8e4m3FNUZWeightPerTensorFloatMSE(FpFNUZWeightPerTensorFloatMSE, Fp8e4m3Mixin):
    """FNUZ FP8 e4m3 weight, one scale of least squared error."""


class Fp8e5m2FNUZActPerTensorFloatMSE(FpFNUZActPerTensorFloatMSE, Fp8e5m2Mixin):
    """FNUZ FP8 e5m2 activation, one scale of least squared error."""


class Fp8e5m2FNUZWeightPerChannelFloatMSE(FpFNUZWeightPerChannelFloatMSE, Fp8e5m2Mixin):
    """FNUZ FP8 e5m2 weight, one scale per output channel of least squared error."""


class Fp8e5m2FNUZWeightPerTensorFloatMSE(FpFNUZWeightPerTensorFloatMSE, Fp8e5m2Mixin):
    """FNUZ FP8 e5m2 weight, one scale of least squared error."""
