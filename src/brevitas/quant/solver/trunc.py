"""Solver of truncations of accumulators. Layer: quant (L5)."""

from __future__ import annotations

from typing import Any

from torch import nn

from brevitas.core.quant import TruncIntQuant
from brevitas.core.scaling import TruncMsbScaling, TruncScalingWrapper
from brevitas.inject import ExtendedInjector, value
from brevitas.inject.enum import QuantType, TruncScalingImplType
from brevitas.proxy.runtime_quant import TruncQuantProxyFromInjector
from brevitas.quant.solver.act import SolveActScaling
from brevitas.quant.solver.common import (
    SolveBitWidth,
    SolveRestriction,
    SolveRounding,
    SolveStats,
    choose,
)

__all__ = ["TruncQuantSolver"]

_TRUNC_SCALING: dict[TruncScalingImplType, type[nn.Module]] = {
    TruncScalingImplType.MSB: TruncMsbScaling,
    TruncScalingImplType.WRAPPER: TruncScalingWrapper,
}
_TENSOR_QUANT: dict[QuantType, type[nn.Module] | None] = {
    QuantType.INT: TruncIntQuant,
    QuantType.FP: None,
}


class SolveTruncTensorQuant(ExtendedInjector):
    """``quant_type`` -> ``tensor_quant`` of a truncation."""

    @value
    def tensor_quant(quant_type: Any = None) -> Any:
        return choose(_TENSOR_QUANT, quant_type, "quant_type")


class SolveTruncScaling(ExtendedInjector):
    """``trunc_scaling_impl_type`` -> ``trunc_scaling_impl``, and the integer it maps to."""

    narrow_range = False

    @value
    def trunc_scaling_impl(trunc_scaling_impl_type: Any = None) -> Any:
        return choose(_TRUNC_SCALING, trunc_scaling_impl_type, "trunc_scaling_impl_type")

    @value
    def trunc_int_scaling_impl(int_scaling_impl: Any = None) -> Any:
        return int_scaling_impl


class TruncQuantSolver(
    SolveTruncTensorQuant,
    SolveTruncScaling,
    SolveActScaling,
    SolveRestriction,
    SolveStats,
    SolveBitWidth,
    SolveRounding,
):
    """Base of truncations that are declared by enums.

    Example:
        >>> from brevitas.quant.scaled_int import TruncTo8bit
        >>> issubclass(TruncTo8bit, TruncQuantSolver), TruncTo8bit.bit_width
        (True, 8)
    """

    proxy_class = TruncQuantProxyFromInjector
