"""Quantizers with the values ``-scale``, 0 and ``scale``, at a constant scale. Layer: quant (L5).

They are integer quantizers of 2 bits in narrow range.
"""

from __future__ import annotations

from brevitas.quant.base import NarrowIntQuant, PerTensorConstScaling2bit
from brevitas.quant.solver.act import ActQuantSolver
from brevitas.quant.solver.weight import WeightQuantSolver

__all__ = ["SignedTernaryActPerTensorConst", "SignedTernaryWeightPerTensorConst"]


class SignedTernaryWeightPerTensorConst(
    NarrowIntQuant, PerTensorConstScaling2bit, WeightQuantSolver
):
    """Ternary weight, ``-0.1``, 0 and ``0.1``; the scale is ``scaling_const``.

    Example:
        >>> from brevitas.nn import QuantLinear
        >>> layer = QuantLinear(20, 4, weight_quant=SignedTernaryWeightPerTensorConst)
        >>> layer.quant_weight().int().unique()
        tensor([-1,  0,  1], dtype=torch.int8)
    """

    scaling_const = 0.1


class SignedTernaryActPerTensorConst(NarrowIntQuant, PerTensorConstScaling2bit, ActQuantSolver):
    """Ternary activation, -1, 0 and 1; the scale is ``scaling_const``, or follows from ``max_val``.

    Example:
        >>> from brevitas.nn import QuantIdentity
        >>> layer = QuantIdentity(act_quant=SignedTernaryActPerTensorConst)
        >>> layer(torch.tensor([-3.0, 0.2, 0.7]))
        tensor([-1.,  0.,  1.])
    """

    min_val = -1.0
    max_val = 1.0
