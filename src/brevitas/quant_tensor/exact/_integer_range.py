"""Interval arithmetic on integers: which bits hold every result of an operation.

Layer: quant_tensor (L2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from brevitas.function.ops import max_int, min_int
from brevitas.function.ops_ste import round_ste
from brevitas.quant_tensor._accumulator import is_constant
from brevitas.quant_tensor._compare import is_readable, is_traced
from brevitas.quant_tensor.exact._straight_through import straight_through

# Integers where the host may read the bit widths, so that nothing is rounded; elsewhere float64.
Number = int | Tensor
# A tensor that broadcasts to a value, or a number that is known by construction.
Field = Tensor | float
# Integers and zero points up to here lie far apart in float32: `value / scale + zero_point` is off
# by less than 2**-3, and rounds to the integer that a valid tensor (tolerance 0.2) stands for.
_NARROW = 2**18


class IntegerRange(NamedTuple):
    """All integers from `low` to `high`.

    Invariants: `low <= high`; both are Python integers, or 0-d float64 tensors where the bit
    width is learned, on an accelerator or traced. `signed` is True if `low` may be negative.
    """

    low: Number
    high: Number
    signed: bool

    def plus(self, other: IntegerRange) -> IntegerRange:
        """Range of the sums.

        Example:
            >>> IntegerRange(0, 63, False).plus(IntegerRange(0, 255, False))
            IntegerRange(low=0, high=318, signed=False)
        """
        return IntegerRange(
            self.low + other.low, self.high + other.high, self.signed or other.signed
        )

    def minus(self, other: IntegerRange) -> IntegerRange:
        """Range of the differences."""
        return IntegerRange(self.low - other.high, self.high - other.low, True)

    def times(self, other: IntegerRange) -> IntegerRange:
        """Range of the products."""
        corners = [a * b for a in (self.low, self.high) for b in (other.low, other.high)]
        return IntegerRange(_least_of(corners), largest_of(corners), self.signed or other.signed)

    def summed(self, terms: int) -> IntegerRange:
        """Range of the sums of so many integers."""
        return IntegerRange(self.low * terms, self.high * terms, self.signed)

    def union(self, other: IntegerRange) -> IntegerRange:
        """Smallest range that holds both."""
        low, high = _least_of((self.low, other.low)), largest_of((self.high, other.high))
        return IntegerRange(low, high, self.signed or other.signed)

    def largest_magnitude(self) -> Number:
        """Largest distance of an integer from zero."""
        return largest_of((self.high, -self.low))

    def bit_width(self, signed: bool) -> Number:
        """Fewest bits that hold the range; without a sign, those that hold its upper end.

        Example:
            >>> IntegerRange(-128, 382, True).bit_width(True)
            10
        """
        # In two's complement -2**k needs as many bits as 2**k - 1.
        magnitude = largest_of((self.high, -self.low - 1)) if signed else self.high
        return largest_of((_bit_length(magnitude) + int(signed), 1))


def range_of_format(bit_width: Tensor, signed: bool) -> IntegerRange:
    """All integers of a format.

    Args:
        bit_width: Bits; the largest of several.
        signed: Whether the format has negative numbers.

    Returns:
        Range, differentiable in the bit width.

    Example:
        >>> range_of_format(torch.tensor(8.), True)
        IntegerRange(low=-128, high=127, signed=True)
    """
    if is_constant(bit_width):
        return range_of_register(bit_width.item(), signed)
    return range_of_register(bit_width.amax(), signed)


def range_of_register(bit_width: Tensor | float, signed: bool) -> IntegerRange:
    """All integers of a register, as numbers or tensors like its bit width.

    Example:
        >>> range_of_register(4, False)
        IntegerRange(low=0, high=15, signed=False)
    """
    if isinstance(bit_width, Tensor):
        # Rounded, since the power function of a device may miss a power of two by a little.
        bits = bit_width.double()
        low, high = (round_ste(bound(signed, False, bits)) for bound in (min_int, max_int))
    else:
        low, high = (int(bound(signed, False, bit_width)) for bound in (min_int, max_int))
    return IntegerRange(low, high, signed)


def range_of_values(
    low: Tensor, high: Tensor, rounded: Callable[[Tensor], Tensor], signed: bool | None
) -> IntegerRange:
    """Range of rounded real numbers.

    Args:
        low: Lower bounds, any shape.
        high: Upper bounds, any shape.
        rounded: How they are rounded; never decreases.
        signed: Whether the range counts as signed; None: if a lower bound is negative, and in a
            traced graph, where nobody can look, always.

    Returns:
        Range of the extremes, differentiable in the bounds.

    Example:
        >>> range_of_values(torch.tensor([-0.7, 1.]), torch.tensor([2., 3.2]), torch.round, None)
        IntegerRange(low=-1, high=3, signed=True)
    """
    if low.numel() == 0:
        return IntegerRange(0, 0, bool(signed))
    least, most = low.amin(), high.amax()
    least, most = straight_through(least, rounded(least)), straight_through(most, rounded(most))
    if signed is None:
        signed = is_traced() or bool(least < 0)
    if is_constant(least) and is_constant(most):
        return IntegerRange(int(least.item()), int(most.item()), signed)
    return IntegerRange(least.double(), most.double(), signed)


def is_narrow(held: IntegerRange, zero_point: Field) -> bool:
    """Whether the host knows that float32 tells these integers apart, whatever the scale.

    Example:
        >>> is_narrow(IntegerRange(-128, 127, True), torch.tensor(3.))
        True
    """
    ends = (held.low, held.high)
    if any(isinstance(end, Tensor) or abs(end) > _NARROW for end in ends):
        return False
    if isinstance(zero_point, Tensor):
        return is_readable(zero_point) and not bool((zero_point.abs() > _NARROW).any())
    return abs(zero_point) <= _NARROW


def as_double(number: Number | float, device: torch.device | None = None) -> Tensor:
    """A number as a float64 tensor."""
    number = number if isinstance(number, Tensor) else float(number)
    return torch.as_tensor(number, dtype=torch.float64, device=device)


def largest_of(numbers: Sequence[Number]) -> Number:
    """The largest of some numbers.

    Example:
        >>> largest_of([3, 5]), largest_of([3, torch.tensor(5.)])
        (5, tensor(5., dtype=torch.float64))
    """
    tensors = [number for number in numbers if isinstance(number, Tensor)]
    if not tensors:
        return max(numbers)
    device = tensors[0].device
    return torch.stack([as_double(number, device) for number in numbers]).amax()


def _least_of(numbers: Sequence[Number]) -> Number:
    return -largest_of([-number for number in numbers])


def _bit_length(magnitude: Number) -> Number:
    """Bits of a number that is not negative, as `int.bit_length`."""
    if not isinstance(magnitude, Tensor):
        return max(magnitude, 0).bit_length()
    soft = torch.log2(magnitude.clamp(min=0) + 1)
    with torch.no_grad():
        # The rounding of a logarithm next to a power of two is found out by comparison.
        bits = torch.ceil(soft)
        power = torch.round(torch.pow(2, bits))
        bits = bits + (power <= magnitude).double() - (power > 2 * magnitude).double()
    return straight_through(soft, torch.clamp(bits, min=0))
