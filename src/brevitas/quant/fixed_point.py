"""Integer quantizers with a power-of-two scale: fixed-point numbers. Layer: quant (L5)."""

from __future__ import annotations

from brevitas.quant.base import (
    IntQuant,
    MaxStatsScaling,
    MSESymmetricScale,
    NarrowIntQuant,
    ParamFromRuntimePercentileScaling,
    ParamMinMaxInitScaling,
    PerChannelPoTScaling8bit,
    PerTensorPoTScaling8bit,
    UintQuant,
)
from brevitas.quant.solver.act import ActQuantSolver
from brevitas.quant.solver.bias import BiasQuantSolver
from brevitas.quant.solver.weight import WeightQuantSolver

__all__ = [
    "Int8ActPerTensorFixedPoint",
    "Int8ActPerTensorFixedPointMSE",
    "Int8ActPerTensorFixedPointMinMaxInit",
    "Int8BiasPerTensorFixedPointInternalScaling",
    "Int8WeightPerChannelFixedPoint",
    "Int8WeightPerChannelFixedPointMSE",
    "Int8WeightPerTensorFixedPoint",
    "Int8WeightPerTensorFixedPointMSE",
    "Uint8ActPerTensorFixedPoint",
    "Uint8ActPerTensorFixedPointMSE",
    "Uint8ActPerTensorFixedPointMaxInit",
]


class Int8WeightPerTensorFixedPoint(
    NarrowIntQuant, MaxStatsScaling, PerTensorPoTScaling8bit, WeightQuantSolver
):
    """8-bit narrow-range weight, one power-of-two scale from the largest magnitude.

    Example:
        >>> from brevitas.nn import QuantLinear
        >>> layer = QuantLinear(2, 4, weight_quant=Int8WeightPerTensorFixedPoint)
        >>> layer.quant_weight().scale.log2().frac().item()
        0.0
    """


class Int8WeightPerChannelFixedPoint(
    NarrowIntQuant, MaxStatsScaling, PerChannelPoTScaling8bit, WeightQuantSolver
):
    """8-bit narrow-range weight, one power-of-two scale per output channel."""


class Int8ActPerTensorFixedPoint(
    IntQuant, ParamFromRuntimePercentileScaling, PerTensorPoTScaling8bit, ActQuantSolver
):
    """8-bit signed activation, learned power-of-two scale from the 99.999th percentile."""


class Uint8ActPerTensorFixedPoint(
    UintQuant, ParamFromRuntimePercentileScaling, PerTensorPoTScaling8bit, ActQuantSolver
):
    """8-bit unsigned activation, learned power-of-two scale from the 99.999th percentile."""


class Int8WeightPerTensorFixedPointMSE(MSESymmetricScale, Int8WeightPerTensorFixedPoint):
    """8-bit narrow-range weight, power-of-two scale that starts from the least squared error."""


class Int8WeightPerChannelFixedPointMSE(MSESymmetricScale, Int8WeightPerChannelFixedPoint):
    """As ``Int8WeightPerTensorFixedPointMSE``, with one scale per output channel."""


class Int8ActPerTensorFixedPointMSE(MSESymmetricScale, Int8ActPerTensorFixedPoint):
    """8-bit signed activation, power-of-two scale that starts from the least squared error."""


class Uint8ActPerTensorFixedPointMSE(MSESymmetricScale, Uint8ActPerTensorFixedPoint):
    """8-bit unsigned activation, power-of-two scale that starts from the least squared error."""


class Int8ActPerTensorFixedPointMinMaxInit(
    IntQuant, ParamMinMaxInitScaling, PerTensorPoTScaling8bit, ActQuantSolver
):
    """8-bit signed activation, learned power-of-two scale from ``min_val`` and ``max_val``."""


class Uint8ActPerTensorFixedPointMaxInit(
    UintQuant, ParamMinMaxInitScaling, PerTensorPoTScaling8bit, ActQuantSolver
):
    """8-bit unsigned activation, learned power-of-two scale that starts from ``max_val``."""

    min_val = 0.0


class Int8BiasPerTensorFixedPointInternalScaling(
    IntQuant, MaxStatsScaling, PerTensorPoTScaling8bit, BiasQuantSolver
):
    """8-bit bias with a power-of-two scale of its own; needs no quantized input."""
