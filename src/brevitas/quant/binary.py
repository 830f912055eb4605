"""Quantizers with the values ``-scale`` and ``scale``, at a constant scale. Layer: quant (L5)."""

from __future__ import annotations

from brevitas.quant.base import SignedBinaryClampedConst
from brevitas.quant.solver.act import ActQuantSolver
from brevitas.quant.solver.weight import WeightQuantSolver

__all__ = ["SignedBinaryActPerTensorConst", "SignedBinaryWeightPerTensorConst"]


class SignedBinaryWeightPerTensorConst(SignedBinaryClampedConst, WeightQuantSolver):
    """Binary weight, ``-0.1`` and ``0.1``; the scale is ``scaling_const``.

    Example:
        >>> from brevitas.nn import QuantLinear
        >>> layer = QuantLinear(2, 4, weight_quant=SignedBinaryWeightPerTensorConst)
        >>> weight = layer.quant_weight()
        >>> weight.value.abs().unique().tolist() == weight.scale.tolist(), weight.bit_width
        (True, tensor(1.))
    """

    scaling_const = 0.1


class SignedBinaryActPerTensorConst(SignedBinaryClampedConst, ActQuantSolver):
    """Binary activation, -1 and 1; the scale is ``scaling_const``, or follows from ``max_val``.

    Example:
        >>> from brevitas.nn import QuantIdentity
        >>> layer = QuantIdentity(act_quant=SignedBinaryActPerTensorConst)
        >>> layer(torch.tensor([-3.0, 0.0, 0.2]))
        tensor([-1.,  1.,  1.])
    """

    min_val = -1.0
    max_val = 1.0
