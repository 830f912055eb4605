"""The integer that a scale's real-valued statistic maps to. Layer: core (L3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from brevitas.function.ops import max_int, min_int

__all__ = ["IntScaling", "PowerOfTwoIntScaling"]


def _choose_signed(own: bool | None, given: bool | Tensor | None) -> bool | Tensor:
    signed = given if given is not None else own
    if signed is None:
        raise ValueError(
            "signed=None: expected True or False, at construction or when it is called."
        )
    return signed


class IntScaling(nn.Module):
    """Largest magnitude of the integer range: ``2**(b-1)`` or ``2**(b-1) - 1`` or ``2**b - 1``.

    Args:
        narrow_range: leave out the most negative integer (signed) or the largest one (unsigned).
        signed: signed integers if True; None to be told at each call.
        dtype: dtype of the result; that of the bit width by default.

    Example:
        >>> IntScaling(narrow_range=True, signed=True)(torch.tensor(8.0))
        tensor(127.)
        >>> IntScaling(narrow_range=False, signed=True)(torch.tensor(8.0))
        tensor(128.)
    """

    def __init__(
        self, narrow_range: bool, signed: bool | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.signed = signed
        self.narrow_range = narrow_range
        self.dtype = dtype

    def forward(self, bit_width: Tensor, signed: bool | Tensor | None = None) -> Tensor:
        """Return the integer threshold at ``bit_width`` bits, a 0-d tensor."""
        signed = _choose_signed(self.signed, signed)
        if isinstance(signed, Tensor):
            smallest = -min_int(True, self.narrow_range, bit_width)
            threshold = torch.where(signed, smallest, max_int(False, self.narrow_range, bit_width))
        elif signed:
            threshold = -min_int(True, self.narrow_range, bit_width)
        else:
            threshold = max_int(False, self.narrow_range, bit_width)
        return threshold if self.dtype is None else threshold.to(self.dtype)


class PowerOfTwoIntScaling(nn.Module):
    """Power of two above the integer range: ``2**(b-1)`` if signed, ``2**b`` otherwise.

    With a power-of-two statistic the scale is a power of two as well: fixed-point numbers.

    Args:
        signed: signed integers if True; None to be told at each call.

    Example:
        >>> PowerOfTwoIntScaling(signed=True)(torch.tensor(8.0))
        tensor(128.)
    """

    def __init__(self, signed: bool | None = None) -> None:
        super().__init__()
        self.signed = signed

    def forward(self, bit_width: Tensor, signed: bool | Tensor | None = None) -> Tensor:
        """Return the integer threshold at ``bit_width`` bits, a 0-d tensor."""
        signed = _choose_signed(self.signed, signed)
        limit = max_int(signed, False, bit_width)
        return limit + 1
