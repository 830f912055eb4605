"""The affine integer tensor around integers that an exact operation has computed.

Layer: quant_tensor (L2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from brevitas.ops._elementwise import needs_autograd
from brevitas.quant_tensor._compare import require
from brevitas.quant_tensor._record import as_field
from brevitas.quant_tensor._shared_arithmetic import in_step
from brevitas.quant_tensor.exact._integer_range import (
    Field,
    IntegerRange,
    is_narrow,
    range_of_register,
)
from brevitas.quant_tensor.exact._operand import Operand, require_exact
from brevitas.quant_tensor.exact._overflow import OVERFLOWS
from brevitas.quant_tensor.exact._settings import Settings
from brevitas.quant_tensor.exact._straight_through import straight_through
from brevitas.quant_tensor.int_quant_tensor import IntQuantTensor
from brevitas.utils.torch_utils import widened


class Outcome(NamedTuple):
    """What an operation gives before the register: integers and what they stand for.

    Args:
        operands: What was computed with.
        integers: Exact integers, in float64 and without gradient.
        range: All integers that operands of these formats can give.
        scale: Real value of one step.
        zero_point: Integer that stands for zero, a number where it is known by construction.
        real: Gives the real result with its gradient, from the real values of the operands.
    """

    operands: Sequence[Operand]
    integers: Tensor
    range: IntegerRange
    scale: Tensor
    zero_point: Field
    real: Callable[[], Tensor]


def to_register(outcome: Outcome, settings: Settings) -> IntQuantTensor:
    """Put integers into their register, and the register into a tensor.

    Args:
        outcome: What the operation gives.
        settings: The register, what becomes of integers that do not fit, and the view.

    Returns:
        Affine integer tensor whose value is `(integers - zero_point) * scale`, in the widest
        dtype of the operands, at least float32.

    Raises:
        RuntimeError: Integers may be too large to be exact, are too large for the dtype of the
            value, or overflow where that is an error.
    """
    records = [operand.record for operand in outcome.operands]
    stepping = in_step(*records)
    require_exact([*(operand.range for operand in outcome.operands), outcome.range], stepping)
    signed = outcome.range.signed if settings.signed is None else settings.signed
    bit_width = settings.bit_width or outcome.range.bit_width(signed)
    integers, register = outcome.integers, outcome.range
    overflows = settings.bit_width is not None or (outcome.range.signed and not signed)
    scale, zero_point = (1.0, 0.0) if settings.as_integers else outcome[3:5]
    dtype = reduce(torch.promote_types, [widened(record.value).dtype for record in records])
    with torch.no_grad():
        if overflows:
            register = range_of_register(bit_width, signed)
            integers = OVERFLOWS[settings.overflow](integers, register, stepping)
        value = ((integers - zero_point) * scale).to(dtype)
        if not is_narrow(register, zero_point):
            _require_held(value, integers, scale, zero_point, stepping)
    if needs_autograd(_fields(outcome)):
        saturates = overflows and settings.overflow == "saturate"
        soft = _soft(outcome, integers, register if saturates else None)
        soft = soft / outcome.scale + outcome.zero_point if settings.as_integers else soft
        value = straight_through(soft.to(dtype), value)
    if isinstance(bit_width, Tensor):
        bit_width = bit_width.to(records[0].bit_width.dtype)
    return IntQuantTensor._from_fields(
        value=value,
        scale=as_field(scale, value),
        zero_point=as_field(zero_point, value),
        bit_width=as_field(bit_width, value),
        signed=signed,
        training=stepping,
        has_zero_point=None if isinstance(zero_point, Tensor) else zero_point != 0,
    )


def _fields(outcome: Outcome) -> tuple[Field, ...]:
    """Everything that a gradient of the value may be asked for."""
    records = [operand.record for operand in outcome.operands]
    given = [getattr(record, name) for record in records for name in record._tensor_fields]
    return (*given, outcome.scale, outcome.zero_point)


def _soft(outcome: Outcome, integers: Tensor, register: IntegerRange | None) -> Tensor:
    """The real result, held at the limits of a register where integers saturate."""
    soft = outcome.real()
    if register is None:
        return soft
    low, high = ((end - outcome.zero_point) * outcome.scale for end in register[:2])
    soft = torch.where(outcome.integers > integers, high, soft)
    return torch.where(outcome.integers < integers, low, soft)


def _require_held(
    value: Tensor, integers: Tensor, scale: Field, zero_point: Field, stepping: bool
) -> None:
    """Raise unless the integers can be read back from the value."""
    recovered = torch.round(value.double() / scale + zero_point)
    lost = (recovered - integers).abs() > 0.5

    def explain() -> str:
        first = integers[lost].flatten()[0]
        return (
            f"{int(lost.sum())} of {lost.numel()}, the first of them {first:.0f}, differ when "
            f"read back. Use operands with a wider value, e.g. `x.double()`, or a narrower "
            f"register (`bit_width=`)."
        )

    name = str(value.dtype).removeprefix("torch.")
    require(~lost.any(), f"Integers are too large for a {name} value", explain, stepping)
