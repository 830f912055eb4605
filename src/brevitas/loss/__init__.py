"""Losses that make a quantized model cheap: fewer bits where they cost most. Layer: loss (L8)."""

from brevitas.loss.weighted_bit_width import (
    MEGA,
    ActivationBitWidthWeightedBySize,
    ActivationFloatBitWidthWeightedBySize,
    QuantLayerOutputBitWidthWeightedByOps,
    WeightBitWidthWeightedBySize,
    WeightFloatBitWidthWeightedBySize,
)

__all__ = [
    "MEGA",
    "ActivationBitWidthWeightedBySize",
    "ActivationFloatBitWidthWeightedBySize",
    "QuantLayerOutputBitWidthWeightedByOps",
    "WeightBitWidthWeightedBySize",
    "WeightFloatBitWidthWeightedBySize",
]
