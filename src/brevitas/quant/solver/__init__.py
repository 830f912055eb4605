"""Bases of quantizers that are declared by enums. Layer: quant (L5)."""

from brevitas.quant.solver.act import ActQuantSolver
from brevitas.quant.solver.bias import BiasQuantSolver
from brevitas.quant.solver.clamp import ClampQuantSolver
from brevitas.quant.solver.trunc import TruncQuantSolver
from brevitas.quant.solver.weight import WeightQuantSolver

__all__ = [
    "ActQuantSolver",
    "BiasQuantSolver",
    "ClampQuantSolver",
    "TruncQuantSolver",
    "WeightQuantSolver",
]
