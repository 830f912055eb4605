"""Quantizers that quantize nothing: what ``weight_quant=None`` stands for. Layer: quant (L5)."""

from __future__ import annotations

from brevitas.inject.enum import QuantType
from brevitas.quant.solver.act import ActQuantSolver
from brevitas.quant.solver.bias import BiasQuantSolver
from brevitas.quant.solver.weight import WeightQuantSolver

__all__ = ["NoneActQuant", "NoneBiasQuant", "NoneWeightQuant"]


class NoneWeightQuant(WeightQuantSolver):
    """Leave the weight in floating point."""

    quant_type = QuantType.FP


class NoneBiasQuant(BiasQuantSolver):
    """Leave the bias in floating point."""

    quant_type = QuantType.FP


class NoneActQuant(ActQuantSolver):
    """Leave the activation in floating point."""

    quant_type = QuantType.FP
