"""Arithmetic of affine integer tensors on their integers, as hardware computes it.

Layer: quant_tensor (L2).

Every function reads the integers `q = clamp(round(value / scale + zero_point))` of its operands,
computes on them in float64, and gives a valid tensor around the resulting integers. Keywords are
those of `integer_arithmetic`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from brevitas.ops.fake_quant import ROUNDING_MODES
from brevitas.quant_tensor._compare import require, require_equal
from brevitas.quant_tensor._record import as_field, check_fields
from brevitas.quant_tensor._shared_arithmetic import concatenated_field, has_zero_point, in_step
from brevitas.quant_tensor.exact._integer_range import (
    Field,
    IntegerRange,
    as_double,
    range_of_values,
)
from brevitas.quant_tensor.exact._operand import Operand, known_zero_point, read_operand
from brevitas.quant_tensor.exact._result import Outcome, to_register
from brevitas.quant_tensor.exact._settings import EXACT_BITS, Options, Settings
from brevitas.quant_tensor.int_quant_tensor import IntQuantTensor

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "add",
    "as_integers",
    "cat",
    "left_shift",
    "matmul",
    "mul",
    "neg",
    "rescale",
    "right_shift",
    "sub",
]

_HEADLINES = {"scale": "Scaling factors are different", "zero_point": "Zero points are different"}
_RESCALE = "Bring them to one, e.g. with `exact.rescale(x, scale, zero_point)`."


def add(
    first: IntQuantTensor, second: IntQuantTensor, **options: Unpack[Options]
) -> IntQuantTensor:
    """Sum of the integers: `q = q1 + q2`, `z = z1 + z2`, one scale.

    The default rule adds the real values, and only then rounds: with fractional zero points, or
    values between two integers, that is another integer.

    Args:
        first: Operand; both broadcast.
        second: Operand with the scale of the first.
        **options: Keywords of `integer_arithmetic`.

    Returns:
        Tensor of the broadcast shape.

    Raises:
        RuntimeError: The scales differ, in training, too; see `rescale`.

    Example:
        >>> x = IntQuantTensor(torch.tensor([1.]), 0.2, 2.5, 6, signed=False, training=False)
        >>> y = IntQuantTensor(torch.tensor([2.]), 0.2, 3.5, 8, signed=False, training=False)
        >>> add(x, y).int(), torch.round((x + y)._pre_round_int_value)
        (tensor([22], dtype=torch.int16), tensor([21.]))
        >>> print(add(x, y, as_integers=True))
        IntQuantTensor(value=tensor([22.]), scale=1.0, zero_point=0.0, bit_width=9.0,
            signed_t=False, training_t=False)
    """
    return _linear("add", first, second, torch.add, IntegerRange.plus, options)


def sub(
    first: IntQuantTensor, second: IntQuantTensor, **options: Unpack[Options]
) -> IntQuantTensor:
    """Difference of the integers, signed: `q = q1 - q2`, `z = z1 - z2`; see `add`.

    Args:
        first: Operand; both broadcast.
        second: Operand with the scale of the first.
        **options: Keywords of `integer_arithmetic`.

    Returns:
        Tensor of the broadcast shape.

    Example:
        >>> x = IntQuantTensor(torch.tensor([3.]), 1., 0., 8, signed=False, training=False)
        >>> y = IntQuantTensor(torch.tensor([5.]), 1., 0., 8, signed=False, training=False)
        >>> sub(x, y).int(), sub(x, y).bit_width
        (tensor([-2], dtype=torch.int16), tensor(9.))
    """
    return _linear("sub", first, second, torch.sub, IntegerRange.minus, options)


def _linear(
    operation: str,
    first: IntQuantTensor,
    second: IntQuantTensor,
    combine: Callable[..., Tensor],
    combine_ranges: Callable[[IntegerRange, IntegerRange], IntegerRange],
    options: Options,
) -> IntQuantTensor:
    settings = Settings(**options)
    a, b = _read(operation, settings, first, second)
    outcome = Outcome(
        operands=(a, b),
        integers=combine(a.integers, b.integers),
        range=combine_ranges(a.range, b.range),
        scale=_shared(operation, "scale", (first, second)),
        zero_point=_field(combine, first, second),
        real=lambda: combine(a.real(), b.real()),
    )
    return to_register(outcome, settings)


def _field(combine: Callable[..., Tensor], *records: IntQuantTensor) -> Field:
    """The zero point of a sum, the number 0 where it is known by construction."""
    if has_zero_point(*records) is False:
        return 0.0
    return combine(*(record.zero_point for record in records))


def neg(x: IntQuantTensor, **options: Unpack[Options]) -> IntQuantTensor:
    """Negative of the integers, signed: `-q`, `-z`.

    Args:
        x: Operand.
        **options: Keywords of `integer_arithmetic`.

    Returns:
        Tensor of the shape of `x`, with a bit for the negative of the lowest integer.

    Example:
        >>> x = IntQuantTensor(torch.tensor([-128.]), 1., 0., 8, signed=True, training=False)
        >>> neg(x).int(), neg(x, bit_width=8).int(), neg(x, bit_width=8, overflow="wrap").int()
        (tensor([128], dtype=torch.int16), tensor([127], dtype=torch.int8),
            tensor([-128], dtype=torch.int8))
    """
    settings = Settings(**options)
    (a,) = _read("neg", settings, x)
    outcome = Outcome(
        operands=(a,),
        integers=-a.integers,
        range=IntegerRange(0, 0, False).minus(a.range),
        scale=x.scale,
        zero_point=_field(torch.neg, x),
        real=lambda: -a.real(),
    )
    return to_register(outcome, settings)


def mul(
    first: IntQuantTensor, second: IntQuantTensor, **options: Unpack[Options]
) -> IntQuantTensor:
    """Product of the integers less their zero points: `(q1 - z1) * (q2 - z2)`, scale `s1 * s2`.

    Args:
        first: Operand; both broadcast.
        second: Operand.
        **options: Keywords of `integer_arithmetic`.

    Returns:
        Tensor of the broadcast shape, with zero point 0.

    Raises:
        RuntimeError: A zero point is no integer.

    Example:
        >>> x = IntQuantTensor(torch.tensor([1.5]), 0.5, 2., 4, signed=False, training=False)
        >>> mul(x, x).int(), mul(x, x).scale
        (tensor([9], dtype=torch.int16), tensor(0.2500))
    """
    settings = Settings(**options)
    a, b = _read_factors("mul", settings, first, second)
    outcome = Outcome(
        operands=(a, b),
        integers=a.steps * b.steps,
        range=a.step_range.times(b.step_range),
        scale=first.scale * second.scale,
        zero_point=0.0,
        real=lambda: a.real() * b.real(),
    )
    return to_register(outcome, settings)


def matmul(
    first: IntQuantTensor, second: IntQuantTensor, **options: Unpack[Options]
) -> IntQuantTensor:
    """Matrix product of the integers less their zero points, scale `s1 * s2`.

    Sums are exact on every device: float64 holds them, and their worst case is checked.

    Args:
        first: Operand, `[..., m, k]` or `[k]`, of one scale along k.
        second: Operand, `[..., k, n]` or `[k]`, of one scale along k.
        **options: Keywords of `integer_arithmetic`.

    Returns:
        Tensor of the shape that `torch.matmul` gives, with zero point 0.

    Raises:
        RuntimeError: A zero point is no integer, scales differ within a sum, or a sum of k
            products of these formats may exceed 52 bits.

    Example:
        >>> x = IntQuantTensor(torch.ones(2, 3), 0.5, 0., 4, signed=True, training=False)
        >>> y = matmul(x, x.t())
        >>> y.int().tolist(), y.bit_width
        ([[12, 12], [12, 12]], tensor(9.))
    """
    settings = Settings(**options)
    a, b = _read_factors("matmul", settings, first, second)
    outcome = Outcome(
        operands=(a, b),
        integers=torch.matmul(a.steps, b.steps),
        range=a.step_range.times(b.step_range).summed(first.shape[-1]),
        scale=_matrix_scale(first, second),
        zero_point=0.0,
        real=lambda: torch.matmul(*_same_dtype(a.real(), b.real())),
    )
    return to_register(outcome, settings)


def _same_dtype(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(first.dtype, second.dtype)
    return first.to(dtype), second.to(dtype)


def _matrix_scale(first: IntQuantTensor, second: IntQuantTensor) -> Tensor:
    """Scale of a matrix product, without the dimensions that a vector loses."""
    rows, columns = first.scale, second.scale
    along_rows = rows.dim() >= 1 and rows.size(-1) != 1
    inner = -1 if second.dim() == 1 else -2
    along_columns = columns.dim() >= -inner and columns.size(inner) != 1
    if along_rows or along_columns:
        raise RuntimeError(
            f"exact.matmul: scales of shape {tuple(rows.shape)} and {tuple(columns.shape)} differ "
            f"within a sum: expected size 1 along the inner dimension of {first.shape[-1]} "
            f"elements. Use `exact.rescale` to bring an operand to one scale."
        )
    if first.dim() == 1:
        columns = columns.squeeze(-2) if columns.dim() >= 2 else columns
        rows = rows.reshape(())
    if second.dim() == 1:
        rows = rows.squeeze(-1) if rows.dim() >= 1 else rows
        columns = columns.reshape(())
    return rows * columns


def cat(
    tensors: Sequence[IntQuantTensor], dim: int = 0, **options: Unpack[Options]
) -> IntQuantTensor:
    """Concatenate integers; the result's format holds every operand's.

    Scales and zero points are equal, or run along `dim` in every operand and are concatenated.

    Args:
        tensors: Operands; bit widths and signs may differ.
        dim: Dimension along which they are put.
        **options: Keywords of `integer_arithmetic`.

    Returns:
        Tensor of the shape that `torch.cat` gives.

    Raises:
        RuntimeError: Scales or zero points differ, in training, too; see `rescale`.
        ValueError: There is no operand.

    Example:
        >>> x = IntQuantTensor(torch.tensor([200.]), 1., 0., 8, signed=False, training=False)
        >>> y = IntQuantTensor(torch.tensor([-3.]), 1., 0., 4, signed=True, training=False)
        >>> cat([x, y]).int(), cat([x, y]).bit_width
        (tensor([200,  -3], dtype=torch.int16), tensor(9.))
    """
    settings = Settings(**options)
    tensors = list(tensors)
    if not tensors:
        raise ValueError(f"exact.cat({tensors}): expected at least one IntQuantTensor.")
    operands = _read("cat", settings, *tensors)

    def field(name: str) -> Tensor:
        joined = concatenated_field(tensors, name, dim)
        return _shared("cat", name, tensors) if joined is None else joined

    outcome = Outcome(
        operands=operands,
        integers=torch.cat([operand.integers for operand in operands], dim),
        range=reduce(IntegerRange.union, [operand.range for operand in operands]),
        scale=field("scale"),
        zero_point=0.0 if has_zero_point(*tensors) is False else field("zero_point"),
        real=lambda: torch.cat([operand.real() for operand in operands], dim),
    )
    return to_register(outcome, settings)


def left_shift(x: IntQuantTensor, bits: int, **options: Unpack[Options]) -> IntQuantTensor:
    """Shift the integers less their zero point to the left: `(q - z) * 2**bits`, same scale.

    Args:
        x: Operand.
        bits: How far, 0 to 52.
        **options: Keywords of `integer_arithmetic`.

    Returns:
        Tensor of the shape of `x`, that many bits wider, with zero point 0.

    Raises:
        RuntimeError: The zero point is no integer.

    Example:
        >>> x = IntQuantTensor(torch.tensor([-3.]), 1., 0., 4, signed=True, training=False)
        >>> left_shift(x, 2).int(), left_shift(x, 2).bit_width
        (tensor([-12], dtype=torch.int8), tensor(6.))
    """
    settings = Settings(**options)
    (a,) = _read_factors("left_shift", settings, x)
    factor = _factor("left_shift", bits)
    outcome = Outcome(
        operands=(a,),
        integers=a.steps * factor,
        range=a.step_range.times(IntegerRange(factor, factor, False)),
        scale=x.scale,
        zero_point=0.0,
        real=lambda: a.real() * factor,
    )
    return to_register(outcome, settings)


def right_shift(x: IntQuantTensor, bits: int, **options: Unpack[Options]) -> IntQuantTensor:
    """Shift the integers less their zero point to the right: `round((q - z) / 2**bits)`.

    With `rounding="FLOOR"` this is the arithmetic shift of hardware; the scale stays.

    Args:
        x: Operand.
        bits: How far, 0 to 52.
        **options: Keywords of `integer_arithmetic`.

    Returns:
        Tensor of the shape of `x`, that many bits narrower (at least 1), with zero point 0. A
        rounding that goes up needs one bit more: the nearest integer to 255 / 2 is 128.

    Raises:
        RuntimeError: The zero point is no integer.

    Example:
        >>> x = IntQuantTensor(torch.tensor([-7.]), 1., 0., 4, signed=True, training=False)
        >>> right_shift(x, 1, rounding="FLOOR").int(), right_shift(x, 1).int(), -7 >> 1
        (tensor([-4], dtype=torch.int8), tensor([-4], dtype=torch.int8), -4)
    """
    settings = Settings(**options)
    (a,) = _read_factors("right_shift", settings, x)
    factor = _factor("right_shift", bits)
    rounded = ROUNDING_MODES[settings.rounding]
    held = a.step_range
    low, high = (as_double(end) / factor for end in held[:2])
    outcome = Outcome(
        operands=(a,),
        integers=rounded(a.steps / factor),
        range=range_of_values(low, high, rounded, held.signed),
        scale=x.scale,
        zero_point=0.0,
        real=lambda: a.real() / factor,
    )
    return to_register(outcome, settings)


def _factor(operation: str, bits: Any) -> int:
    if isinstance(bits, bool) or not isinstance(bits, int) or not 0 <= bits <= EXACT_BITS:
        raise ValueError(
            f"exact.{operation}(bits={bits!r}): expected an int from 0 to {EXACT_BITS}."
        )
    return 2**bits


def rescale(
    x: IntQuantTensor,
    scale: Tensor | float | None = None,
    zero_point: Tensor | float | None = None,
    **options: Unpack[Options],
) -> IntQuantTensor:
    """Requantize integers: `q' = round((q - z) * s / s' + z')`.

    The quotient is rounded once, so that a tie is a tie: for scales in float32 and integers up to
    28 bits, and zero point 0, the result is that of rational arithmetic. A new zero point is added
    before the rounding, as quantizers do, not after it.

    Args:
        x: Operand.
        scale: New scale, broadcastable to `x`; None keeps it.
        zero_point: New zero point, broadcastable to `x`; None keeps it.
        **options: Keywords of `integer_arithmetic`. With a `bit_width` the sign stays that of
            `x` unless `signed` states it.

    Returns:
        Tensor of the shape of `x`.

    Raises:
        ValueError: The scale is a number that is not positive and finite.
        RuntimeError: An element of the scale is not.

    Example:
        >>> x = IntQuantTensor(torch.tensor([1., 2.]), 0.5, 0., 8, signed=True, training=False)
        >>> rescale(x, 0.25).int(), rescale(x, 0.25).bit_width
        (tensor([4, 8], dtype=torch.int16), tensor(9.))
        >>> rescale(x, 0.25, zero_point=128, bit_width=8, signed=False).int()
        tensor([132, 136], dtype=torch.uint8)
    """
    settings = Settings(**options)
    if isinstance(scale, (int, float)) and not 0 < scale < float("inf"):
        raise ValueError(f"exact.rescale(scale={scale!r}): expected a finite number > 0.")
    if isinstance(scale, Tensor):
        holds = ((scale > 0) & scale.isfinite()).all()
        headline = "exact.rescale: the new scale is not positive and finite"
        require(holds, headline, lambda: f"found {scale.flatten()[:4].tolist()}.", in_step(x))
    (a,) = _read("rescale", settings, x)
    new_scale = x.scale if scale is None else as_field(scale, x.value)
    offset = known_zero_point(x) if zero_point is None else zero_point
    offset = 0.0 if not isinstance(offset, Tensor) and offset == 0 else as_field(offset, x.value)
    check_fields(x.value, scale=new_scale, zero_point=as_field(offset, x.value))
    integers, held = a.integers, a.range
    if scale is not None or zero_point is not None:
        rounded = ROUNDING_MODES[settings.rounding]

        def requantize(integers: Any) -> Tensor:
            return (integers - x.zero_point.double()) * x.scale / new_scale + offset

        with torch.no_grad():
            integers = rounded(requantize(integers))
        moves_zero = x._has_zero_point is not False or isinstance(offset, Tensor)
        signed = None if moves_zero and settings.bit_width is None and not x.signed else x.signed
        held = range_of_values(requantize(held.low), requantize(held.high), rounded, signed)
    outcome = Outcome((a,), integers, held, new_scale, offset, a.real)
    return to_register(outcome, settings)


def as_integers(x: IntQuantTensor, **options: Unpack[Options]) -> IntQuantTensor:
    """A tensor seen as its integers: value `q`, scale 1, zero point 0.

    Args:
        x: Operand.
        **options: Keywords of `integer_arithmetic`.

    Returns:
        Tensor of the shape of `x`, whose gradient is that of `value / scale + zero_point`.

    Example:
        >>> x = IntQuantTensor(torch.tensor([1.]), 0.2, 2.5, 6, signed=False, training=False)
        >>> print(as_integers(x))
        IntQuantTensor(value=tensor([8.]), scale=1.0, zero_point=0.0, bit_width=6.0,
            signed_t=False, training_t=False)
    """
    return rescale(x, **{**options, "as_integers": True})


def _read(operation: str, settings: Settings, *records: IntQuantTensor) -> list[Operand]:
    return [read_operand(record, operation, settings.rounding) for record in records]


def _read_factors(operation: str, settings: Settings, *records: IntQuantTensor) -> list[Operand]:
    operands = _read(operation, settings, *records)
    for operand in operands:
        operand.require_integer_zero_point(operation)
    return operands


def _shared(operation: str, name: str, records: Sequence[IntQuantTensor]) -> Tensor:
    """A field that all operands must have in common, of as many dimensions as the largest."""
    fields = [getattr(record, name) for record in records]
    shared = fields[0]
    for field in fields[1:]:
        headline = f"exact.{operation}: {_HEADLINES[name]}"
        require_equal(shared, field, headline, _RESCALE, in_step(*records))
        shared = field if field.dim() > shared.dim() else shared
    return shared
