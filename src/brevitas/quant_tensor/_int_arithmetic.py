"""Arithmetic between affine integer tensors: which integers the result of an operation holds.

Layer: quant_tensor (L2).

With `x = (q - z) * s`: a sum keeps `s` and adds the integers and zero points; a product multiplies
the scales and needs as many bits as both factors together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from brevitas.function.ops import max_int
from brevitas.quant_tensor._accumulator import (
    sum_bit_width,
    with_lowest_integer,
    with_sign_bit,
)
from brevitas.quant_tensor._compare import require_zero
from brevitas.quant_tensor._int_mixin import is_affine_int, known_no_zero_point
from brevitas.quant_tensor._shared_arithmetic import (
    bits_with_sign,
    has_zero_point,
    in_step,
    negate,
)
from brevitas.quant_tensor.base_quant_tensor import QuantTensor, _unpack_quant_tensor

_SUBTRACT_ZERO_POINT = "Quantize the operands without a zero point, or use `.value`."


def _shared_scale(first: Any, second: Any) -> Tensor:
    """The scale of both; their mean in training, where a shared one is still being learned."""
    if first.scale is second.scale:
        return first.scale
    if in_step(first, second):
        return (first.scale + second.scale) / 2
    first.check_scaling_factors_same(second)
    return first.scale if first.scale.dim() >= second.scale.dim() else second.scale


def _with_offset(x: Any, value: Tensor, offset: Any) -> Any:
    """`value = x.value + offset` for a real offset, which moves the zero point."""
    return x.set(value=value, zero_point=x.zero_point - offset / x.scale)


def add(first: Any, second: Any, *, alpha: Any = 1, out: None = None) -> Any:
    """Sum of two operands of which at least one is an affine integer tensor.

    Two of them: `s` is shared, `z = z1 + z2`, `b = max(b1, b2) + 1`. With a float operand `f`:
    the integers stay and `z = z1 - f / s`.

    Args:
        first: Affine integer tensor, tensor or number.
        second: Affine integer tensor, tensor or number.
        alpha: Factor of `second`; other than 1 the result is a plain tensor.
        out: Not supported.

    Returns:
        Affine integer tensor; plain tensor if alpha is not 1, or with another kind of quantized
        tensor.

    Raises:
        RuntimeError: Scales differ and neither operand is in training.
    """
    if alpha != 1 or out is not None:
        first, second = _unpack_quant_tensor((first, second))
        return torch.add(first, second, alpha=alpha, out=out)
    value = _unpack_quant_tensor(first) + _unpack_quant_tensor(second)
    if not is_affine_int(second):
        return value if isinstance(second, QuantTensor) else _with_offset(first, value, second)
    if not is_affine_int(first):
        return value if isinstance(first, QuantTensor) else _with_offset(second, value, first)
    return first._from_fields(
        value=value,
        scale=_shared_scale(first, second),
        zero_point=first.zero_point + second.zero_point,
        bit_width=torch.maximum(bits_with_sign(first), bits_with_sign(second)) + 1,
        signed=first.signed or second.signed,
        training=in_step(first, second),
        has_zero_point=has_zero_point(first, second),
    )


def subtract(first: Any, second: Any, *, alpha: Any = 1, out: None = None) -> Any:
    """Difference, as the sum with the negative; see `add`."""
    if alpha != 1 or out is not None:
        first, second = _unpack_quant_tensor((first, second))
        return torch.sub(first, second, alpha=alpha, out=out)
    return add(first, negate(second) if isinstance(second, QuantTensor) else -second)


def reverse_subtract(first: Any, second: Any) -> Any:
    """`second - first`."""
    return subtract(second, first)


def _require_no_zero_point(operation: str, *operands: Any) -> None:
    headline = f"Zero-points of {operation} operands are non-zero, not supported"
    for x in operands:
        if x._has_zero_point is not False:
            require_zero(x.zero_point, headline, _SUBTRACT_ZERO_POINT, in_step(*operands))


def multiply(first: Any, second: Any, *, out: None = None) -> Any:
    """Product: `s = s1 * s2`, `b = b1 + b2`; with a float operand a plain tensor.

    Args:
        first: Affine integer tensor, tensor or number.
        second: Affine integer tensor, tensor or number.
        out: Not supported.

    Returns:
        Affine integer tensor, or tensor.

    Raises:
        RuntimeError: A zero point is not zero.
    """
    value = torch.mul(_unpack_quant_tensor(first), _unpack_quant_tensor(second), out=out)
    if not (is_affine_int(first) and is_affine_int(second)):
        return value
    _require_no_zero_point("mul", first, second)
    return first._from_fields(
        value=value,
        scale=first.scale * second.scale,
        zero_point=first.zero_point * second.zero_point,
        bit_width=first.bit_width + second.bit_width,
        signed=first.signed or second.signed,
        training=in_step(first, second),
        has_zero_point=has_zero_point(first, second),
    )


def divide(first: Any, second: Any, *, rounding_mode: str | None = None, out: None = None) -> Any:
    """Quotient, with a step so fine that the divisor's largest integer gives one step.

    `s = s1 / (s2 * (max_int2 + 1))`, `b = b1 + b2`. A quotient of integers is no integer
    multiple of any step in general, so that the result is not valid until it is requantized.

    Args:
        first: Affine integer tensor, tensor or number.
        second: Affine integer tensor, tensor or number.
        rounding_mode: As in `torch.div`; with one the result is a plain tensor.
        out: Not supported.

    Returns:
        Affine integer tensor, or tensor if one operand or a rounding mode makes it one.

    Raises:
        RuntimeError: A zero point is not zero.
    """
    dividend, divisor = _unpack_quant_tensor((first, second))
    value = torch.div(dividend, divisor, rounding_mode=rounding_mode, out=out)
    both = is_affine_int(first) and is_affine_int(second)
    if rounding_mode is not None or not both:
        return value
    _require_no_zero_point("div", first, second)
    steps = max_int(second.signed, False, second.bit_width) + 1
    return first._from_fields(
        value=value,
        scale=first.scale / (second.scale * steps),
        zero_point=first.zero_point * second.zero_point,
        bit_width=first.bit_width + second.bit_width,
        signed=first.signed or second.signed,
        training=in_step(first, second),
        has_zero_point=has_zero_point(first, second),
    )


def reverse_divide(first: Any, second: Any) -> Any:
    """`second / first`."""
    return divide(second, first)


def matrix_multiply(first: Any, second: Any, *, out: None = None) -> Any:
    """Matrix product: `s = s1 * s2`, with the bits that the sum over the inner dimension needs.

    A zero point of the first operand gives `z = z1 * sum (q2 - z2)`, one of the second operand
    (an integer) widens its integers by one bit.

    Args:
        first: Affine integer tensor or tensor, `[..., m, k]`.
        second: Affine integer tensor or tensor, `[..., k, n]`.
        out: Not supported.

    Returns:
        Affine integer tensor `[..., m, n]`; plain tensor if an operand is plain, a vector, or has
        scales along the inner dimension.
    """
    left, right = _unpack_quant_tensor((first, second))
    value = torch.matmul(left, right, out=out)
    both = is_affine_int(first) and is_affine_int(second)
    if not both or left.dim() < 2 or right.dim() < 2:
        return value
    left_fields, right_fields = (first.scale, first.zero_point), (second.scale, second.zero_point)
    if any(field.dim() >= 1 and field.size(-1) != 1 for field in left_fields):
        return value
    if any(field.dim() >= 2 and field.size(-2) != 1 for field in right_fields):
        return value
    zero_point = first.zero_point * 0
    if not known_no_zero_point(first):
        sums = torch.round(right.detach() / second.scale.detach()).sum(-2, keepdim=True)
        zero_point = first.zero_point * sums
    second_bits = second.bit_width
    if not known_no_zero_point(second):
        second_bits = second_bits + (second.zero_point != 0).any()
    terms, second_signed = left.shape[-1], second.signed or not known_no_zero_point(second)
    bit_width = sum_bit_width((first.bit_width, second_bits), terms)
    if first.signed != second_signed:
        pair = (first.bit_width, second_bits) if first.signed else (second_bits, first.bit_width)
        bit_width = with_lowest_integer(bit_width, *pair, terms)
    factors = ((first.bit_width, first.signed), (second_bits, second.signed))
    return first._from_fields(
        value=value,
        scale=first.scale * second.scale,
        zero_point=zero_point,
        bit_width=with_sign_bit(bit_width, *factors),
        signed=first.signed or second_signed,
        training=in_step(first, second),
        has_zero_point=has_zero_point(first, second),
    )


def reverse_matrix_multiply(first: Any, second: Any) -> Any:
    """`second @ first`."""
    return matrix_multiply(second, first)
