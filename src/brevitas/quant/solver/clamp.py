"""Solver of quantizers that clamp an accumulator to fewer bits. Layer: quant (L5)."""

from __future__ import annotations

from typing import Any

from torch import nn

from brevitas.core.bit_width import MsbClampBitWidth, RemoveBitwidthParameter
from brevitas.core.bit_width.const import RemovedBitsConst
from brevitas.core.quant import PrescaledRestrictIntQuantWithInputBitWidth
from brevitas.inject import ExtendedInjector, value
from brevitas.inject.enum import BitWidthImplType, QuantType
from brevitas.proxy.runtime_quant import ClampQuantProxyFromInjector
from brevitas.quant.solver.common import SolveIntQuant, SolveRounding, choose

__all__ = ["ClampQuantSolver"]

_MOST_BITS = 32
_BITS_TO_REMOVE: dict[BitWidthImplType, type[nn.Module]] = {
    BitWidthImplType.CONST: RemovedBitsConst,
    BitWidthImplType.PARAMETER: RemoveBitwidthParameter,
}
_TENSOR_QUANT: dict[QuantType, type[nn.Module] | None] = {
    QuantType.INT: PrescaledRestrictIntQuantWithInputBitWidth,
    QuantType.FP: None,
}


class SolveClampBitWidth(ExtendedInjector):
    """``bit_width_impl`` -> the accumulator's bits but those to remove, at most ``bit_width``."""

    bit_width_impl = MsbClampBitWidth
    bit_width_to_remove = 0
    min_overall_bit_width = 2

    @value
    def max_overall_bit_width(bit_width: int | None = None) -> int:
        return _MOST_BITS if bit_width is None else bit_width

    @value
    def bit_width_to_remove_impl(bit_width_impl_type: Any = None) -> Any:
        return choose(_BITS_TO_REMOVE, bit_width_impl_type, "bit_width_impl_type")


class SolveClampTensorQuant(SolveIntQuant):
    """``quant_type`` -> ``tensor_quant`` of a clamp."""

    @value
    def tensor_quant(quant_type: Any = None) -> Any:
        return choose(_TENSOR_QUANT, quant_type, "quant_type")


class ClampQuantSolver(SolveClampTensorQuant, SolveClampBitWidth, SolveRounding):
    """Base of quantizers that clamp an accumulator to fewer bits, declared by enums.

    Example:
        >>> from brevitas.quant.base import IntQuant
        >>> class ClampTo8bit(IntQuant, ClampQuantSolver):
        ...     bit_width = 8
        >>> ClampTo8bit.max_overall_bit_width, ClampTo8bit.bit_width_to_remove
        (8, 0)
    """

    proxy_class = ClampQuantProxyFromInjector
