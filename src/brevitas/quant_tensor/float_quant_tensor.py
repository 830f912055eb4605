"""A tensor whose values are minifloats times a scale, and that knows which minifloats.

Layer: quant_tensor (L2).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from brevitas.quant_tensor._record import construct, register_record, require_bits
from brevitas.quant_tensor.base_quant_tensor import (
    FieldName,
    FloatMixin,
    FloatQuantTensorBase,
    QuantTensor,
)
from brevitas.quant_tensor.float_torch_handler import FLOAT_QUANT_TENSOR_FN_HANDLER
from brevitas.quant_tensor.torch_handler import QUANT_TENSOR_FN_HANDLER

__all__ = ["FLOAT_QUANT_TENSOR_FN_HANDLER", "QUANT_TENSOR_FN_HANDLER", "FloatQuantTensor"]


def _new(
    cls: type[FloatQuantTensor],
    value: Tensor,
    scale: Tensor | float,
    zero_point: Tensor | float,
    exponent_bit_width: Tensor | float,
    mantissa_bit_width: Tensor | float,
    exponent_bias: Tensor | float,
    saturating: bool | Tensor,
    inf_values: Sequence[str] | None,
    nan_values: Sequence[str] | None,
    signed: bool | Tensor,
    training: bool | Tensor,
) -> FloatQuantTensor:
    bits = {"exponent_bit_width": exponent_bit_width, "mantissa_bit_width": mantissa_bit_width}
    require_bits(cls, 0, **bits)
    return construct(
        cls,
        value,
        scale,
        zero_point,
        exponent_bit_width,
        mantissa_bit_width,
        exponent_bias,
        saturating,
        as_codes(inf_values),
        as_codes(nan_values),
        signed,
        training,
    )


def as_codes(codes: Sequence[str] | None) -> tuple[str, ...] | None:
    """Mantissa codes as a constant of a graph."""
    return None if codes is None else tuple(codes)


# The base keeps the constructor, since tracers take a class for a named tuple only if it has the
# constructor of its base.
FloatQuantTensorBase.__new__ = _new  # type: ignore[method-assign]


@register_record
class FloatQuantTensor(FloatMixin, QuantTensor, FloatQuantTensorBase):
    """Minifloat tensor: `value = (minifloat - zero_point) * scale`.

    Invariants: as those of `IntQuantTensor`; `saturating` is one more boolean, and `inf_values`
    and `nan_values` are tuples of strings or None.

    Args:
        value: Real values, any shape.
        scale: Real value of the minifloat 1, broadcastable to value. Python numbers become
            float32 tensors on the device of the value, here and below.
        zero_point: What is subtracted from the minifloats: zero.
        exponent_bit_width: Exponent bits.
        mantissa_bit_width: Mantissa bits.
        exponent_bias: What is subtracted from the exponent.
        saturating: Whether larger values become the largest number.
        inf_values: Mantissa codes of the largest exponent that stand for infinity, or None.
        nan_values: Those that stand for NaN, or None.
        signed: Whether there are negative numbers.
        training: Whether scales may still differ between operands.

    Example:
        >>> x = FloatQuantTensor(torch.tensor([0.5, -3.]), 0.5, 0., 4, 3, 7, True, None, ("111",),
        ...                      signed=True, training=False)
        >>> x.minifloat()
        tensor([ 1., -6.])

    Reference:
        Micikevicius et al., "FP8 Formats for Deep Learning", 2022.
    """

    __new__ = FloatQuantTensorBase.__new__
    _fields = tuple(FieldName(name) for name in FloatQuantTensorBase._fields)

    _function_handlers = (
        FLOAT_QUANT_TENSOR_FN_HANDLER,
        QUANT_TENSOR_FN_HANDLER,
    )
    _tensor_fields = (
        *("value", "scale", "zero_point"),
        *("exponent_bit_width", "mantissa_bit_width", "exponent_bias"),
    )
    _broadcast_fields = ("scale", "zero_point")
    _flags = ("saturating", "signed", "training")
