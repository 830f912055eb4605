"""The integers that an operand of exact arithmetic stands for.

Layer: quant_tensor (L2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from brevitas.function.ops import max_int, min_int
from brevitas.ops.fake_quant import ROUNDING_MODES
from brevitas.quant_tensor._compare import require
from brevitas.quant_tensor._int_mixin import SINGLE_PRECISION_DEVICES
from brevitas.quant_tensor._shared_arithmetic import in_step
from brevitas.quant_tensor.exact._integer_range import (
    Field,
    IntegerRange,
    is_narrow,
    largest_of,
    range_of_format,
    range_of_values,
)
from brevitas.quant_tensor.exact._settings import EXACT_BITS
from brevitas.quant_tensor.exact._straight_through import straight_through
from brevitas.quant_tensor.int_quant_tensor import IntQuantTensor
from brevitas.utils.torch_utils import widened


@dataclass(frozen=True)
class Operand:
    """An affine integer tensor, and its integers in float64.

    Args:
        record: The tensor.
        rounded: Integers before the limits of the format, without gradient.
        integers: `clamp(rounded, low, high)`.
        range: Integers of the format.
    """

    record: IntQuantTensor
    rounded: Tensor
    integers: Tensor
    range: IntegerRange

    @property
    def steps(self) -> Tensor:
        """Integers less the zero point."""
        with torch.no_grad():
            return self.integers - self.record.zero_point

    @property
    def step_range(self) -> IntegerRange:
        """Range of the integers less the zero point, which must be an integer.

        Signed if a zero point is above the lowest integer; in a traced graph, where zero points
        cannot be read, if there may be one.
        """
        x = self.record
        if x._has_zero_point is False:
            return self.range
        zero_point = x.zero_point.detach().double()
        low, high = self.range.low - zero_point, self.range.high - zero_point
        return range_of_values(low, high, torch.round, True if x.signed else None)

    def require_integer_zero_point(self, operation: str) -> None:
        """Raise a RuntimeError unless the zero point is an integer."""
        x = self.record
        if x._has_zero_point is False:
            return
        zero_point = x.zero_point.detach()

        def explain() -> str:
            return (
                f"found {zero_point.flatten()[:4].tolist()}, accepted integers. "
                f"Use `exact.rescale(x, zero_point=0)` first."
            )

        holds = (zero_point == torch.round(zero_point)).all()
        headline = f"exact.{operation} subtracts zero points, which are no integers"
        require(holds, headline, explain, in_step(x))

    def real(self) -> Tensor:
        """`(integers - zero_point) * scale`, with straight-through gradients.

        Where the integers are in range, the gradient goes to the value unchanged; where they were
        limited, to the limit, as with the clamp of a quantizer.
        """
        x = self.record
        value = widened(x.value)
        bounds = (bound(x.signed, False, x.bit_width) for bound in (min_int, max_int))
        low, high = ((bound - x.zero_point) * x.scale for bound in bounds)
        above = torch.where(self.rounded > self.integers, high, value)
        soft = torch.where(self.rounded < self.integers, low, above)
        with torch.no_grad():
            hard = (self.steps * x.scale).to(value.dtype)
        return straight_through(soft.to(value.dtype), hard)


def known_zero_point(x: IntQuantTensor) -> Field:
    """The zero point, as the number 0 where it is that by construction."""
    return 0.0 if x._has_zero_point is False else x.zero_point


def _round_operand(x: IntQuantTensor, rounding: str, held: IntegerRange) -> Tensor:
    """Integers of an operand, before the limits of its format.

    What counts as an integer (see `is_valid`) is that integer; anything between two is rounded
    in the working precision, as a quantizer does.
    """
    between = ROUNDING_MODES[rounding](x._pre_round_int_value).double()
    wide = x.value.dtype in (torch.float32, torch.float64)
    if wide and rounding == "ROUND" and is_narrow(held, known_zero_point(x)):
        return between  # the nearest integer is that integer
    nearest, is_integer = x._exact_int_value()
    return torch.where(is_integer, nearest, between)


def _limits(x: IntQuantTensor, held: IntegerRange) -> Any:
    """The limits of a format: two numbers, or tensors where a bit width cannot be read."""
    if x.bit_width.numel() == 1:
        return [end if isinstance(end, Tensor) else float(end) for end in held[:2]]
    bits = x.bit_width.double()
    return [torch.round(bound(x.signed, False, bits)) for bound in (min_int, max_int)]


def read_operand(x: Any, operation: str, rounding: str) -> Operand:
    """The integers of an operand, `clamp(round(value / scale + zero_point), low, high)`.

    Args:
        x: Affine integer tensor.
        operation: Name for messages.
        rounding: One of `ROUNDING_MODES`.

    Returns:
        Operand.

    Raises:
        TypeError: It is something else.
        RuntimeError: Its device computes no float64, or that does not hold its integers.
    """
    if not isinstance(x, IntQuantTensor):
        raise TypeError(
            f"exact.{operation}({type(x).__name__}): expected an IntQuantTensor. Quantize the "
            f"operand, or leave integer arithmetic: use `.value` for real numbers."
        )
    if x.value.device.type in SINGLE_PRECISION_DEVICES:
        raise RuntimeError(
            f"exact.{operation} on {x.value.device}: expected a device with float64 arithmetic, "
            f"which keeps integers exact. Move the operands, e.g. with `.cpu()`."
        )
    held = range_of_format(x.bit_width, x.signed)
    if not isinstance(held.high, Tensor):
        require_exact([held], in_step(x))
    with torch.no_grad():
        rounded = _round_operand(x, rounding, held)
        integers = torch.clamp(rounded, *_limits(x, held))
    return Operand(x, rounded, integers, held)


def require_exact(ranges: Sequence[IntegerRange], stepping: bool) -> None:
    """Raise unless all integers of some ranges, and so sums on the way, are exact in float64."""
    largest = largest_of([held.largest_magnitude() for held in ranges])

    def explain() -> str:
        found = largest.item() if isinstance(largest, Tensor) else float(largest)
        return (
            f"operands of these formats may give {found:.3g}, accepted up to 2**{EXACT_BITS}. "
            f"Use narrower operands, e.g. `exact.rescale(x, bit_width=16)`."
        )

    headline = "Integers are too large for exact arithmetic in float64"
    require(largest <= 2**EXACT_BITS, headline, explain, stepping)
