"""Unsigned integer quantizers with a zero point. Layer: quant (L5)."""

from __future__ import annotations

from brevitas.inject.enum import ScalingPerOutputType
from brevitas.quant.base import (
    HQOActZeroPoint,
    HQOWeightZeroPoint,
    MinMaxStatsScaling,
    MSEActZeroPoint,
    MSEAsymmetricScale,
    MSEWeightZeroPoint,
    ParamFromRuntimePercentileIntervalScaling,
    PerChannelFloatScaling8bit,
    PerTensorFloatScaling8bit,
    PerTensorPoTScaling8bit,
    ShiftedMinUintQuant,
    ShiftedParamFromPercentileUintQuant,
)
from brevitas.quant.solver.act import ActQuantSolver
from brevitas.quant.solver.weight import WeightQuantSolver

__all__ = [
    "ShiftedUint8ActPerTensorFixedPoint",
    "ShiftedUint8ActPerTensorFixedPointMSE",
    "ShiftedUint8ActPerTensorFloat",
    "ShiftedUint8ActPerTensorFloatHQO",
    "ShiftedUint8ActPerTensorFloatMSE",
    "ShiftedUint8WeightGroupQuantFloat",
    "ShiftedUint8WeightPerChannelFloat",
    "ShiftedUint8WeightPerChannelFloatHQO",
    "ShiftedUint8WeightPerChannelFloatMSE",
    "ShiftedUint8WeightPerGroupFloatHQO",
    "ShiftedUint8WeightPerTensorFloat",
    "ShiftedUint8WeightPerTensorFloatHQO",
    "ShiftedUint8WeightPerTensorFloatMSE",
]


class ShiftedUint8WeightPerTensorFloat(
    ShiftedMinUintQuant, MinMaxStatsScaling, PerTensorFloatScaling8bit, WeightQuantSolver
):
    """8-bit unsigned weight, scale from its range and zero point from its smallest value.

    Example:
        >>> from brevitas.nn import QuantLinear
        >>> layer = QuantLinear(2, 4, weight_quant=ShiftedUint8WeightPerTensorFloat)
        >>> layer.quant_weight().int().dtype
        torch.uint8
    """


class ShiftedUint8WeightPerChannelFloat(
    ShiftedMinUintQuant, MinMaxStatsScaling, PerChannelFloatScaling8bit, WeightQuantSolver
):
    """8-bit unsigned weight, scale and zero point per output channel."""


class ShiftedUint8WeightGroupQuantFloat(ShiftedUint8WeightPerChannelFloat):
    """8-bit unsigned weight, scale and zero point per group of ``group_size`` input channels.

    Example:
        >>> from brevitas.nn import QuantLinear
        >>> quant = ShiftedUint8WeightGroupQuantFloat
        >>> layer = QuantLinear(10, 3, weight_quant=quant, weight_group_size=4)
        >>> layer.quant_weight().zero_point_.shape
        torch.Size([3, 3, 1])
    """

    scaling_per_output_type = ScalingPerOutputType.GROUP


class ShiftedUint8ActPerTensorFloat(
    ShiftedParamFromPercentileUintQuant,
    ParamFromRuntimePercentileIntervalScaling,
    PerTensorFloatScaling8bit,
    ActQuantSolver,
):
    """8-bit unsigned activation, learned scale and zero point from two percentiles."""


class ShiftedUint8ActPerTensorFixedPoint(
    ShiftedParamFromPercentileUintQuant,
    ParamFromRuntimePercentileIntervalScaling,
    PerTensorPoTScaling8bit,
    ActQuantSolver,
):
    """8-bit unsigned activation, learned power-of-two scale and zero point."""


class ShiftedUint8WeightPerTensorFloatMSE(
    MSEAsymmetricScale, MSEWeightZeroPoint, ShiftedUint8WeightPerTensorFloat
):
    """8-bit unsigned weight, scale and zero point start where the squared error is least."""


class ShiftedUint8WeightPerChannelFloatMSE(
    MSEAsymmetricScale, MSEWeightZeroPoint, ShiftedUint8WeightPerChannelFloat
):
    """As ``ShiftedUint8WeightPerTensorFloatMSE``, per output channel."""


class ShiftedUint8ActPerTensorFloatMSE(
    MSEAsymmetricScale, MSEActZeroPoint, ShiftedUint8ActPerTensorFloat
):
    """8-bit unsigned activation, scale and zero point start where the squared error is least."""


class ShiftedUint8ActPerTensorFixedPointMSE(
    MSEAsymmetricScale, MSEActZeroPoint, ShiftedUint8ActPerTensorFixedPoint
):
    """As ``ShiftedUint8ActPerTensorFloatMSE``, with a power-of-two scale."""


class ShiftedUint8WeightPerTensorFloatHQO(HQOWeightZeroPoint, ShiftedUint8WeightPerTensorFloat):
    """8-bit unsigned weight, real zero point that starts from half-quadratic optimization."""

    quantize_zero_point = False


class ShiftedUint8WeightPerChannelFloatHQO(HQOWeightZeroPoint, ShiftedUint8WeightPerChannelFloat):
    """As ``ShiftedUint8WeightPerTensorFloatHQO``, per output channel."""

    quantize_zero_point = False


class ShiftedUint8WeightPerGroupFloatHQO(ShiftedUint8WeightPerChannelFloatHQO):
    """As ``ShiftedUint8WeightPerTensorFloatHQO``, per group of 32 input channels."""

    group_size = 32
    scaling_per_output_type = ScalingPerOutputType.GROUP


class ShiftedUint8ActPerTensorFloatHQO(HQOActZeroPoint, ShiftedUint8ActPerTensorFloat):
    """8-bit unsigned activation, real zero point that starts from half-quadratic optimization."""

    quantize_zero_point = False
