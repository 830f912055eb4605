"""What becomes of integers that a register cannot hold: saturation, wrap-around, or an error.

Layer: quant_tensor (L2).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from brevitas.quant_tensor._compare import require
from brevitas.quant_tensor.exact._integer_range import IntegerRange

Overflow = Callable[[Tensor, IntegerRange, bool], Tensor]

_REMEDY = "State a wider register (`bit_width=`), or overflow='saturate' or 'wrap'."


def saturate(integers: Tensor, register: IntegerRange, in_step: bool) -> Tensor:
    """The nearest integer of the register.

    Example:
        >>> saturate(torch.tensor([-9., 3., 9.]), IntegerRange(-8, 7, True), False)
        tensor([-8.,  3.,  7.])
    """
    return torch.clamp(integers, register.low, register.high)  # pyright: ignore[reportCallIssue, reportArgumentType]


def wrap(integers: Tensor, register: IntegerRange, in_step: bool) -> Tensor:
    """The integer with the same lowest bits, as two's complement hardware keeps it.

    `q - floor((q - low) / 2**b) * 2**b`, exact in float64 for integers up to 52 bits.

    Example:
        >>> wrap(torch.tensor([-9., 3., 9.]), IntegerRange(-8, 7, True), False)
        tensor([ 7.,  3., -7.])
    """
    period = register.high - register.low + 1
    return integers - torch.floor((integers - register.low) / period) * period


def refuse(integers: Tensor, register: IntegerRange, in_step: bool) -> Tensor:
    """The integers, all of which fit; a RuntimeError otherwise.

    Example:
        >>> refuse(torch.tensor([-8., 7.]), IntegerRange(-8, 7, True), False)
        tensor([-8.,  7.])
    """
    outside = (integers < register.low) | (integers > register.high)

    def explain() -> str:
        found = f"{integers.min():.0f} to {integers.max():.0f}"
        low, high = (torch.as_tensor(end).item() for end in register[:2])
        return f"found {found}, accepted {low:.0f} to {high:.0f}. {_REMEDY}"

    require(~outside.any(), "Integers overflow their register", explain, in_step)
    return integers


# Overflow by name -> (integers, register, whether in a training step) -> integers that fit.
OVERFLOWS: dict[str, Overflow] = {"saturate": saturate, "wrap": wrap, "error": refuse}
