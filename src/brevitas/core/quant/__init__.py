"""Tensor quantizers: ``x -> (value, scale, zero_point, bit_width)``. Layer: core (L3)."""

from brevitas.core.quant.int import (
    PrescaledRestrictIntQuant,
    PrescaledRestrictIntQuantWithInputBitWidth,
    RescalingIntQuant,
    TruncIntQuant,
)
from brevitas.core.quant.int_base import IntQuant
from brevitas.inject.enum import QuantType

__all__ = [
    "IntQuant",
    "PrescaledRestrictIntQuant",
    "PrescaledRestrictIntQuantWithInputBitWidth",
    "QuantType",
    "RescalingIntQuant",
    "TruncIntQuant",
]
