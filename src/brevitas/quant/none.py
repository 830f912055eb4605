"""Quantizers that quantize nothing: what ``weight_quant=None`` stands for. Layer: quant (L5)."""

from __future__ import annotations

from brevitas.inject.enum import QuantType
from brevitas.quant.solver.act import ActQuantSolver
from brevitas.quant.solver.bias import BiasQuantSolver
from brevitas.quant.solver.clamp import ClampQuantSolver
from brevitas.quant.solver.trunc import TruncQuantSolver
from brevitas.quant.solver.weight import WeightQuantSolver

__all__ = [
    "NoneActQuant",
    "NoneBiasQuant",
    "NoneClampQuant",
    "NoneTruncQuant",
    "NoneWeightQuant",
]


class NoneWeightQuant(WeightQuantSolver):
    """Leave the weight in floating point."""

    quant_type = QuantType.FP


class NoneBiasQuant(BiasQuantSolver):
    """Leave the bias in floating point."""

    quant_type = QuantType.FP


class NoneActQuant(ActQuantSolver):
    """Leave the activation in floating point."""

    quant_type = QuantType.FP


class NoneTruncQuant(TruncQuantSolver):
    """Keep all bits of the accumulator."""

    quant_type = QuantType.FP


class NoneClampQuant(ClampQuantSolver):
    """Keep the range of the accumulator."""

    quant_type = QuantType.FP
