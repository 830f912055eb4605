"""Minifloat quantizers of the Open Compute Project's formats. Layer: quant (L5).

Reference: "OCP 8-bit Floating Point Specification (OFP8)" 1.0, and for formats of fewer bits "OCP
Microscaling Formats (MX) Specification" 1.0.
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
from brevitas.utils.float_quant_utils import get_max_available_float

__all__ = [
    "Fp8e4m3OCPAct",
    "Fp8e4m3OCPActPerTensorFloat",
    "Fp8e4m3OCPActPerTensorFloatMSE",
    "Fp8e4m3OCPWeight",
    "Fp8e4m3OCPWeightPerChannelFloat",
    "Fp8e4m3OCPWeightPerChannelFloatMSE",
    "Fp8e4m3OCPWeightPerTensorFloat",
    "Fp8e4m3OCPWeightPerTensorFloatMSE",
    "Fp8e5m2OCPAct",
    "Fp8e5m2OCPActPerTensorFloat",
    "Fp8e5m2OCPActPerTensorFloatMSE",
    "Fp8e5m2OCPWeight",
    "Fp8e5m2OCPWeightPerChannelFloat",
    "Fp8e5m2OCPWeightPerChannelFloatMSE",
    "Fp8e5m2OCPWeightPerTensorFloat",
    "Fp8e5m2OCPWeightPerTensorFloatMSE",
    "FpOCPAct",
    "FpOCPActPerChannelFloat2d",
    "FpOCPActPerChannelFloat2dMSE",
    "FpOCPActPerTensorFloat",
    "FpOCPActPerTensorFloatMSE",
    "FpOCPMixin",
    "FpOCPWeight",
    "FpOCPWeightPerChannelFloat",
    "FpOCPWeightPerChannelFloatMSE",
    "FpOCPWeightPerTensorFloat",
    "FpOCPWeightPerTensorFloatMSE",
]


#: (exponent bits, mantissa bits) -> mantissas of the highest exponent for infinity and for NaN.
#: Other formats have neither.
_CODES: dict[tuple[int, int], tuple[tuple[str, ...] | None, tuple[str, ...]]] = {
    (4, 3): (None, ("111",)),
    (5, 2): (("00",), ("01", "11", "10")),
}


class FpOCPMixin(ExtendedInjector):
    """Codes for infinity and NaN, and the largest number, that go with the bits of a format."""

    saturating = True

    @value
    def inf_values(exponent_bit_width: int, mantissa_bit_width: int) -> tuple[str, ...] | None:
        return _CODES.get((exponent_bit_width, mantissa_bit_width), (None, None))[0]

    @value
    def nan_values(exponent_bit_width: int, mantissa_bit_width: int) -> tuple[str, ...] | None:
        return _CODES.get((exponent_bit_width, mantissa_bit_width), (None, None))[1]

    @value
    def max_available_float(
        exponent_bit_width: int,
        mantissa_bit_width: int,
        exponent_bias: int,
        nan_values: tuple[str, ...] | None,
        inf_values: tuple[str, ...] | None,
        saturating: bool,
    ) -> float:
        return get_max_available_float(
            exponent_bit_width,
            mantissa_bit_width,
            exponent_bias,
            nan_values,
            inf_values,
            saturating,
        )


class FpOCPAct(FpOCPMixin, FloatActBase):
    """OCP minifloat activation, without a scale."""

    scaling_per_output_type = ScalingPerOutputType.TENSOR


class FpOCPActPerChannelFloat2d(FpOCPMixin, ScaledFloatActBase):
    """OCP minifloat activation, one scale per channel of ``[N, C, H, W]``, learned."""

    scaling_per_output_type = ScalingPerOutputType.CHANNEL
    scaling_stats_permute_dims = (1, 0, 2, 3)


class FpOCPActPerTensorFloat(FpOCPMixin, ScaledFloatActBase):
    """OCP minifloat activation, one scale, learned."""

    scaling_per_output_type = ScalingPerOutputType.TENSOR


class FpOCPWeight(FpOCPMixin, FloatWeightBase):
    """OCP minifloat weight, without a scale."""

    scaling_per_output_type = ScalingPerOutputType.TENSOR


class FpOCPWeightPerChannelFloat(FpOCPMixin, ScaledFloatWeightBase):
    """OCP minifloat weight, one scale per output channel from the largest magnitude."""

    scaling_per_output_type = ScalingPerOutputType.CHANNEL


class FpOCPWeightPerTensorFloat(FpOCPMixin, ScaledFloatWeightBase):
    """OCP minifloat weight, one scale from the largest magnitude."""

    scaling_per_output_type = ScalingPerOutputType.TENSOR


class Fp8e4m3OCPAct(FpOCPAct, Fp8e4m3Mixin):
    """OCP FP8 e4m3 activation, without a scale."""


class Fp8e4m3OCPActPerTensorFloat(FpOCPActPerTensorFloat, Fp8e4m3Mixin):
    """OCP FP8 e4m3 activation, one scale, learned."""


class Fp8e4m3OCPWeight(FpOCPWeight, Fp8e4m3Mixin):
    """OCP FP8 e4m3 weight, without a scale."""


class Fp8e4m3OCPWeightPerChannelFloat(FpOCPWeightPerChannelFloat, Fp8e4m3Mixin):
    """OCP FP8 e4m3 weight, one scale per output channel from the largest magnitude."""


class Fp8e4m3OCPWeightPerTensorFloat(FpOCPWeightPerTensorFloat, Fp8e4m3Mixin):
    """OCP FP8 e4m3 weight, one scale from the largest magnitude."""


class Fp8e5m2OCPAct(FpOCPAct, Fp8e5m2Mixin):
    """OCP FP8 e5m2 activation, without a scale."""


class Fp8e5m2OCPActPerTensorFloat(FpOCPActPerTensorFloat, Fp8e5m2Mixin):
    """OCP FP8 e5m2 activation, one scale, learned."""


class Fp8e5m2OCPWeight(FpOCPWeight, Fp8e5m2Mixin):
    """OCP FP8 e5m2 weight, without a scale."""


class Fp8e5m2OCPWeightPerChannelFloat(FpOCPWeightPerChannelFloat, Fp8e5m2Mixin):
    """OCP FP8 e5m2 weight, one scale per output channel from the largest magnitude."""


class Fp8e5m2OCPWeightPerTensorFloat(FpOCPWeightPerTensorFloat, Fp8e5m2Mixin):
    """OCP FP8 e5m2 weight, one scale from the largest magnitude."""


class FpOCPActPerChannelFloat2dMSE(FpOCPMixin, MSESymmetricScale, ScaledFloatActBase):
    """OCP minifloat activation, a scale per channel of ``[N, C, H, W]``, least squared error."""

    scaling_per_output_type = ScalingPerOutputType.CHANNEL
    scaling_stats_permute_dims = (1, 0, 2, 3)


class FpOCPActPerTensorFloatMSE(FpOCPMixin, MSESymmetricScale, ScaledFloatActBase):
    """OCP minifloat activation, one scale of least squared error."""

    scaling_per_output_type = ScalingPerOutputType.TENSOR


class FpOCPWeightPerChannelFloatMSE(FpOCPMixin, MSESymmetricScale, ScaledFloatWeightBase):
    """OCP minifloat weight, one scale per output channel of least squared error."""

    scaling_per_output_type = ScalingPerOutputType.CHANNEL


class FpOCPWeightPerTensorFloatMSE(FpOCPMixin, MSESymmetricScale, ScaledFloatWeightBase):
    """OCP minifloat weight, one scale of least squared error."""

    scaling_per_output_type = ScalingPerOutputType.TENSOR


class Fp8e4m3OCPActPerTensorFloatMSE(FpOCPActPerTensorFloatMSE, Fp8e4m3Mixin):
    """OCP FP8 e4m3 activation, one scale of least squared error."""


class Fp8e4m3OCPWeightPerChannelFloatMSE(FpOCPWeightPerChannelFloatMSE, Fp8e4m3Mixin):
    """OCP FP8 e4m3 weight, one scale per output channel of least squared error."""


class Fp8e4m3OCPWeightPerTensorFloatMSE(FpOCPWeightPerTensorFloatMSE, Fp8e4m3Mixin):
    """OCP FP8 e4m3 weight, one scale of least squared error."""


class Fp8e5m2OCPActPerTensorFloatMSE(FpOCPActPerTensorFloatMSE, Fp8e5m2Mixin):
    """OCP FP8 e5m2 activation, one scale of least squared error."""


class Fp8e5m2OCPWeightPerChannelFloatMSE(FpOCPWeightPerChannelFloatMSE, Fp8e5m2Mixin):
    """OCP FP8 e5m2 weight, one scale per output channel of least squared error."""


class Fp8e5m2OCPWeightPerTensorFloatMSE(FpOCPWeightPerTensorFloatMSE, Fp8e5m2Mixin):
    """OCP FP8 e5m2 weight, one scale of least squared error."""
