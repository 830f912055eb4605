"""A tensor whose values are integers times a scale, and that knows which integers.

Layer: quant_tensor (L2).
"""

from __future__ import annotations

from torch import Tensor

from brevitas.quant_tensor._record import construct, register_record, require_bits
from brevitas.quant_tensor.base_quant_tensor import (
    FieldName,
    IntMixin,
    IntQuantTensorBase,
    QuantTensor,
)
from brevitas.quant_tensor.int_torch_handler import INT_QUANT_TENSOR_FN_HANDLER
from brevitas.quant_tensor.torch_handler import QUANT_TENSOR_FN_HANDLER

__all__ = ["INT_QUANT_TENSOR_FN_HANDLER", "QUANT_TENSOR_FN_HANDLER", "IntQuantTensor"]


def _new(
    cls: type[IntQuantTensor],
    value: Tensor,
    scale: Tensor | float,
    zero_point: Tensor | float,
    bit_width: Tensor | float,
    signed: bool | Tensor,
    training: bool | Tensor,
) -> IntQuantTensor:
    require_bits(cls, 1, bit_width=bit_width)
    return construct(cls, value, scale, zero_point, bit_width, signed, training)


# The base keeps the constructor, since tracers take a class for a named tuple only if it has the
# constructor of its base.
IntQuantTensorBase.__new__ = _new  # type: ignore[method-assign]


@register_record
class IntQuantTensor(IntMixin, QuantTensor, IntQuantTensorBase):
    """Affine integer tensor: `value = (integer - zero_point) * scale`.

    Invariants: `value`, `scale`, `zero_point` and `bit_width` are tensors, scale and zero point
    broadcast against the value, `signed` and `training` are Python booleans; nothing changes
    after construction. The integers lie in `[-2**(b-1), 2**(b-1) - 1]` if signed, else in
    `[0, 2**b - 1]`; signed ones of a single bit may be -1 and 1 instead (a binary quantizer's).
    `is_valid` tells whether they do.

    Args:
        value: Real values, any shape.
        scale: Real value of one integer step, broadcastable to value. Python numbers become
            float32 tensors on the device of the value, here and below.
        zero_point: Integer that stands for zero, broadcastable to value; a real number where a
            float bias is folded in.
        bit_width: Bits of the integers.
        signed: Whether the integers have a sign.
        training: Whether scales may still differ between operands.

    Example:
        >>> x = IntQuantTensor(torch.tensor([0.5, -1.]), 0.5, 0., 8, signed=True, training=False)
        >>> x.int()
        tensor([ 1, -2], dtype=torch.int8)
        >>> (x + x).bit_width
        tensor(9.)

    Reference:
        Jacob et al., "Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference", CVPR 2018, equation 1.
    """

    __new__ = IntQuantTensorBase.__new__
    _fields = tuple(FieldName(name) for name in IntQuantTensorBase._fields)

    _function_handlers = (INT_QUANT_TENSOR_FN_HANDLER, QUANT_TENSOR_FN_HANDLER)
    _tensor_fields = ("value", "scale", "zero_point", "bit_width")
    _broadcast_fields = ("scale", "zero_point")

    @classmethod
    def _from_fields(
        cls,
        value: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        bit_width: Tensor,
        signed: bool,
        training: bool,
        has_zero_point: bool | None = None,
    ) -> IntQuantTensor:
        fields = (value, scale, zero_point, bit_width, signed, training)
        return cls._build(fields, has_zero_point)


QuantTensor._default_class = IntQuantTensor
