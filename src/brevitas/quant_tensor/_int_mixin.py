"""What affine integer tensors know about their integers: values, range, validity.

Layer: quant_tensor (L2).
"""

from __future__ import annotations

import builtins
import math
from typing import Any

import torch
from torch import Tensor

from brevitas.function.ops import max_int, min_int
from brevitas.quant_tensor._compare import (
    assert_on_device,
    is_readable,
    is_traced,
    known_zero,
    require_equal,
)
from brevitas.quant_tensor._group_mixin import GroupMixin

# Largest distance of `value / scale + zero_point` from an integer at which it still counts as
# that integer, by the dtype of the value.
TOLERANCE: dict[torch.dtype, float] = {
    torch.float64: 0.1,
    torch.float32: 0.2,
    torch.float16: 0.5,
    torch.bfloat16: 0.5,
}
# Devices without float64 arithmetic.
SINGLE_PRECISION_DEVICES = ("mps",)

SHARE_QUANTIZER = (
    "Requantize both operands with one shared quantizer, or use `.value` to go on in float."
)
_NOT_VALID = "IntQuantTensor not valid."


def integer_dtype(bit_width: builtins.float, signed: bool) -> torch.dtype:
    """Smallest integer dtype that holds all integers of a format.

    Args:
        bit_width: Bits, at most 64 if signed, 63 if not.
        signed: Whether the format has negative numbers.

    Returns:
        Dtype, by the number of bits a signed type needs, with uint8 for 8 unsigned bits.

    Example:
        >>> integer_dtype(8, False), integer_dtype(9, True), integer_dtype(17, True)
        (torch.uint8, torch.int16, torch.int32)
    """
    if bit_width <= 8:
        return torch.int8 if signed else torch.uint8
    bits = bit_width if signed else bit_width + 1
    return torch.int16 if bits <= 16 else torch.int32 if bits <= 32 else torch.int64


def _limited(integers: Tensor, dtype: torch.dtype) -> Tensor:
    """Integers within a dtype: near 2**31 and 2**63 a float may lie one step beyond its end."""
    limits = torch.iinfo(dtype)
    # The largest float64 that is not above the end.
    largest = limits.max if limits.bits < 64 else math.nextafter(2.0**63, 0.0)
    return integers.clamp(limits.min, largest)


def has_integers(x: Any) -> bool:
    """Whether `x` is an affine integer tensor, with or without groups."""
    return isinstance(x, IntMixin)


def is_affine_int(x: Any) -> bool:
    """Whether `x` is an affine integer tensor without groups; operands of a rule may be any."""
    return has_integers(x) and not isinstance(x, GroupMixin)


def known_no_zero_point(x: Any) -> bool | None:
    """Whether the zero point is zero: by construction, by its value, or None if not known."""
    return True if x._has_zero_point is False else known_zero(x.zero_point)


def check_while_not_training(first: Any, second: Any, name: str, headline: str) -> bool | None:
    """Raise a RuntimeError if a field differs outside training; True in training."""
    if first.training or second.training:
        return True
    field, other = getattr(first, name), getattr(second, name)
    require_equal(field, other, headline, SHARE_QUANTIZER, False)
    return None


def check_sign_same(first: Any, second: Any) -> None:
    """Raise a RuntimeError if one is signed and the other is not."""
    if first.signed != second.signed:
        raise RuntimeError(
            f"Signs are different: signed={first.signed} and signed={second.signed}. "
            f"{SHARE_QUANTIZER}"
        )


class IntMixin:
    """Integers of a record with `value`, `scale`, `zero_point`, `bit_width` and `signed`."""

    __slots__ = ()

    value: Tensor
    scale: Tensor
    zero_point: Tensor
    bit_width: Tensor
    signed: bool
    training: bool
    # False where the zero point is zero by construction: a constant of a traced graph.
    _has_zero_point: bool | None

    @property
    def _pre_round_int_value(self) -> Tensor:
        """`value / scale + zero_point` in the working precision."""
        return self.value / self.scale + self.zero_point

    def _exact_int_value(self) -> tuple[Tensor, Tensor]:
        """The nearest integers, and where they are integers up to the stated tolerance.

        Computed in float64, where `value / scale` carries only the rounding of the value itself:
        half a unit in its last place, twice that after one more operation. An integer of so many
        bits that this exceeds the tolerance cannot be told from its neighbours, and passes.
        """
        value = self.value
        if value.device.type not in SINGLE_PRECISION_DEVICES:
            value = value.double()
        ratio = value / self.scale
        pre_round = ratio + self.zero_point
        rounded = torch.round(pre_round)
        rounding = 2 * torch.finfo(self.value.dtype).eps * ratio.abs()
        tolerance = torch.clamp(rounding, min=TOLERANCE.get(self.value.dtype, 0.2))
        return rounded, (pre_round - rounded).abs() <= tolerance

    def _range(self) -> tuple[Tensor, Tensor]:
        low = min_int(self.signed, False, self.bit_width)
        return low, max_int(self.signed, False, self.bit_width)

    def _integers(self) -> tuple[Tensor, Tensor]:
        """The nearest integers, and one bool: whether all are integers and in range."""
        rounded, is_integer = self._exact_int_value()
        low, high = self._range()
        valid = (is_integer & (rounded >= low) & (rounded <= high)).all()
        if self._may_be_binary():
            is_sign = is_integer & (rounded.abs() == 1) & (self.bit_width == 1)
            valid = valid | is_sign.all()
        return rounded, valid

    def _may_be_binary(self) -> bool:
        """Whether the integers may be -1 and 1: signed ones of a single bit that never are 0."""
        return self.signed and (not is_readable(self.bit_width) or bool(self.bit_width.min() == 1))

    @property
    def is_valid(self) -> bool | Tensor:
        """Whether `value / scale + zero_point` are integers within the bit width.

        A 0-d bool tensor in a traced graph.
        """
        try:
            valid = self._integers()[1]
        except RuntimeError:  # fields that do not broadcast describe no integers
            return False
        return valid if is_traced() else bool(valid)

    def int(self, float_datatype: bool = False) -> Tensor:
        """The integers, `round(value / scale + zero_point)`.

        Args:
            float_datatype: Keep a floating-point dtype, at least float32.

        Returns:
            Tensor of the shape of `value`, in the smallest integer dtype that holds the bit
            width. Where the bit width cannot be read (in a traced graph) the dtype is int64.

        Raises:
            RuntimeError: They are no integers or out of range; in a traced graph an assertion.
        """
        try:
            rounded, valid = self._integers()
        except RuntimeError as error:
            raise RuntimeError(self._invalid_message()) from error
        if is_traced():
            assert_on_device(valid, _NOT_VALID)
            dtype = torch.int64
        elif valid:
            dtype = integer_dtype(float(self.bit_width.detach().max()), self.signed)
        else:
            raise RuntimeError(self._invalid_message())
        if float_datatype:
            wide = self.value.dtype in (torch.float32, torch.float64)
            dtype = self.value.dtype if wide else torch.float32
        return rounded.to(dtype) if dtype.is_floating_point else _limited(rounded, dtype).to(dtype)

    def _invalid_message(self) -> str:
        """The headline on a line of its own, as code that prints the error expects it."""
        remedy = "Requantize the value, or use `_pre_round_int_value` for the unchecked integers."
        return f"{_NOT_VALID}\n{self._why_invalid()}. {remedy}"

    def _why_invalid(self) -> str:
        try:
            rounded, is_integer = self._exact_int_value()
            low, high = (bound.broadcast_to(rounded.shape) for bound in self._range())
        except RuntimeError:
            return (
                f"Scale {tuple(self.scale.shape)} and zero point {tuple(self.zero_point.shape)} "
                f"do not broadcast to the value {tuple(self.value.shape)}"
            )
        outside = (rounded < low) | (rounded > high)
        if bool(outside.any()):
            kind = "signed" if self.signed else "unsigned"
            binary = ", or -1 and 1 alone" if self._may_be_binary() else ""
            return (
                f"{int(outside.sum())} of {rounded.numel()} integers are out of range: "
                f"found {rounded.min():g} to {rounded.max():g}, accepted {low.min():g} to "
                f"{high.max():g}{binary} ({kind}, bit width {self.bit_width.max():g})"
            )
        count = int((~is_integer).sum())
        return (
            f"{count} of {rounded.numel()} values are no integer multiple of the scale "
            f"{self.scale.flatten()[:4].tolist()}"
        )

    def check_scaling_factors_same(self, other: Any) -> bool | None:
        """Raise a RuntimeError if scales differ outside training; True in training."""
        return check_while_not_training(self, other, "scale", "Scaling factors are different")

    def check_zero_points_same(self, other: Any) -> bool | None:
        """Raise a RuntimeError if zero points differ outside training; True in training."""
        return check_while_not_training(self, other, "zero_point", "Zero points are different")

    def check_bit_width_same(self, other: Any) -> None:
        """Raise a RuntimeError if bit widths differ."""
        in_step = self.training or other.training
        headline = "Bit widths are different"
        require_equal(self.bit_width, other.bit_width, headline, SHARE_QUANTIZER, in_step)

    def _check_format_same(self, other: Any) -> None:
        self.check_bit_width_same(other)

    def check_sign_same(self, other: Any) -> None:
        """Raise a RuntimeError if one is signed and the other is not."""
        check_sign_same(self, other)
