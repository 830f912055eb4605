"""A logarithm whose floor and ceiling are exact. Layer: function (L1)."""

from __future__ import annotations

import torch
from torch import Tensor

from brevitas.function.ops_ste import tensor_clamp_ste

__all__ = ["log_two"]


def log_two(x: Tensor) -> Tensor:
    """Logarithm of base two, an integer where `x` is a power of two and nowhere else.

    The nearest floating-point number to a logarithm may be an integer that the logarithm is not:
    just below 1024, say, it is 10, and its floor one too large. Here the result stays on its side
    of that integer, so that floor and ceiling are those of the real logarithm.

    Args:
        x: Tensor of float32 or float64; fewer bits hold no number between large exponents.

    Returns:
        Tensor of the shape of `x`, NaN where `x < 0`; its gradient is `1 / (x * ln(2))`.

    Example:
        >>> below = torch.nextafter(torch.tensor(1024.), torch.tensor(0.))
        >>> torch.log2(below).floor(), log_two(below).floor()
        (tensor(10.), tensor(9.))
    """
    logarithm = torch.log2(x)
    with torch.no_grad():
        nearest = torch.round(logarithm)
        power = torch.exp2(nearest)
        gap = torch.finfo(logarithm.dtype).eps * nearest.abs().clamp_min(1.0)
        least = torch.where(x > power, nearest + gap, nearest).masked_fill(x < power, -torch.inf)
        most = torch.where(x < power, nearest - gap, nearest).masked_fill(x > power, torch.inf)
    return tensor_clamp_ste(logarithm, least, most)
