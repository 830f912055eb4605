"""Arithmetic that every kind of quantized tensor keeps: changes of sign, concatenation.

Layer: quant_tensor (L2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from brevitas.quant_tensor._accumulator import with_sign_bit
from brevitas.quant_tensor._int_mixin import has_integers, known_no_zero_point
from brevitas.quant_tensor.base_quant_tensor import QuantTensor, _unpack_quant_tensor


def in_step(*operands: Any) -> bool:
    """Whether any operand is in training."""
    return any(operand.training for operand in operands)


def has_zero_point(*operands: Any) -> bool | None:
    """False if no operand has a zero point by construction, else not known."""
    return False if all(x._has_zero_point is False for x in operands) else None


def bits_with_sign(x: Any) -> Tensor:
    """Bits in two's complement, of which the -1 and 1 of a binary quantizer need two."""
    return with_sign_bit(x.bit_width, (x.bit_width, x.signed))


def _value(x: Any) -> Tensor:
    """The value as it is stored, in groups where there are some."""
    return getattr(x, x._tensor_fields[0])


def _zero_point(x: Any) -> Tensor:
    return getattr(x, x._broadcast_fields[1])


def _with_sign(x: Any, value: Tensor, zero_point: Tensor, signed: bool, **fields: Any) -> Any:
    return x._derive(value, signed=signed, **{x._broadcast_fields[1]: zero_point}, **fields)


def negate(x: Any, *, out: None = None) -> Any:
    """`-x`: the zero point changes its sign, and unsigned integers need one bit more.

    The lowest integer of a signed tensor has no counterpart in its bit width.
    """
    fields = {}
    if has_integers(x):
        fields["bit_width"] = x.bit_width if x.signed else x.bit_width + 1
    value, zero_point = torch.neg(_value(x), out=out), -_zero_point(x)
    return _with_sign(x, value, zero_point, True, has_zero_point=has_zero_point(x), **fields)


def absolute(x: Any, *, out: None = None) -> Any:
    """`abs(x)`, unsigned: `abs(q - z)` with zero point 0.

    Signed integers without zero point need one bit less, the lowest one excepted; those with an
    integer zero point keep their bit width.
    """
    fields = {}
    if has_integers(x):
        fields["bit_width"] = _bits_of_magnitude(x)
    value, zero_point = torch.abs(_value(x), out=out), torch.zeros_like(_zero_point(x))
    return _with_sign(x, value, zero_point, False, has_zero_point=False, **fields)


def _bits_of_magnitude(x: Any) -> Tensor:
    bit_width = bits_with_sign(x)
    if x.signed:
        bit_width = bit_width - 1
        if not known_no_zero_point(x):
            bit_width = bit_width + (x.zero_point != 0).any()
    return bit_width


def concatenated_field(tensors: Sequence[Any], name: str, dim: int) -> Tensor | None:
    """A field side by side where it runs along `dim` in every operand, else None."""
    ranks = {x.value.dim() for x in tensors}
    fields = [getattr(x, name) for x in tensors]
    along = [
        field.dim() in ranks and field.size(dim) == x.value.size(dim) > 1
        for x, field in zip(tensors, fields, strict=True)
    ]
    if len(ranks) != 1 or not all(along):
        return None
    return torch.cat(fields, dim=dim)


def concatenate(tensors: Sequence[Any], dim: int = 0, *, out: None = None) -> Any:
    """Concatenate; the operands share scale, zero point, format and sign.

    In training scale and zero point are averaged instead. Scales that run along `dim` are
    concatenated.

    Args:
        tensors: Quantized tensors of one kind, without groups; with another kind or a plain
            tensor among them the result is plain.
        dim: Dimension along which the values are put.
        out: Not supported.

    Returns:
        Quantized tensor, or tensor.

    Raises:
        RuntimeError: Format or sign differ, or outside training scale or zero point.
    """
    tensors = list(tensors)
    value = torch.cat(_unpack_quant_tensor(tensors), dim=dim, out=out)
    first = tensors[0]
    kind = type(first)
    if not isinstance(first, QuantTensor) or not all(isinstance(x, kind) for x in tensors):
        return value
    scale = concatenated_field(tensors, "scale", dim)
    for x in tensors[1:]:
        if scale is None:
            first.check_scaling_factors_same(x)
        first.check_zero_points_same(x)
        first._check_format_same(x)
        first.check_sign_same(x)
    training = in_step(*tensors)
    zero_point = first.zero_point
    if training:
        scale = _mean([x.scale for x in tensors]) if scale is None else scale
        zero_point = _mean([x.zero_point for x in tensors])
    return first._derive(
        value,
        scale=first.scale if scale is None else scale,
        zero_point=zero_point,
        training=training,
        has_zero_point=has_zero_point(*tensors),
    )


def _mean(items: Sequence[Tensor]) -> Tensor:
    if all(item is items[0] for item in items):
        return items[0]
    return sum(items[1:], items[0]) / len(items)
