"""Bit widths: constant, stored in the checkpoint, or learned.

Layer: core (L3).
"""

from __future__ import annotations

from brevitas.core.bit_width.const import BitWidthConst, BitWidthStatefulConst, MsbClampBitWidth
from brevitas.core.bit_width.parameter import BitWidthParameter, RemoveBitwidthParameter
from brevitas.inject.enum import BitWidthImplType

__all__ = [
    "BitWidthConst",
    "BitWidthImplType",
    "BitWidthParameter",
    "BitWidthStatefulConst",
    "MsbClampBitWidth",
    "RemoveBitwidthParameter",
]
