"""Tensor quantizers: ``x -> (value, scale, zero_point, bit_width)``. Layer: core (L3)."""

from brevitas.core.quant.binary import BinaryQuant, ClampedBinaryQuant
from brevitas.core.quant.int import (
    DecoupledRescalingIntQuant,
    DecoupledRescalingIntQuantWithInput,
    PrescaledRestrictIntQuant,
    PrescaledRestrictIntQuantWithInputBitWidth,
    RescalingIntQuant,
    TruncIntQuant,
)
from brevitas.core.quant.int_base import DecoupledIntQuant, IntQuant
from brevitas.core.quant.ternary import TernaryQuant
from brevitas.inject.enum import QuantType

__all__ = [
    "BinaryQuant",
    "ClampedBinaryQuant",
    "DecoupledIntQuant",
    "DecoupledRescalingIntQuant",
    "DecoupledRescalingIntQuantWithInput",
    "IntQuant",
    "PrescaledRestrictIntQuant",
    "PrescaledRestrictIntQuantWithInputBitWidth",
    "QuantType",
    "RescalingIntQuant",
    "TernaryQuant",
    "TruncIntQuant",
]
