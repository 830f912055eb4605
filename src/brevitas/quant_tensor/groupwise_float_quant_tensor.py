"""A minifloat tensor with one scale for each group of elements.

Layer: quant_tensor (L2).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from brevitas.quant_tensor._group_mixin import GroupMixin, as_group_constants
from brevitas.quant_tensor._record import construct, register_record, require_bits
from brevitas.quant_tensor.base_quant_tensor import (
    FieldName,
    FloatMixin,
    GroupwiseFloatQuantTensorBase,
    QuantTensor,
)
from brevitas.quant_tensor.float_quant_tensor import as_codes
from brevitas.quant_tensor.groupwise_torch_handler import GROUPWISE_QUANT_TENSOR_FN_HANDLER

__all__ = ["GroupwiseFloatQuantTensor"]


def _new(
    cls: type[GroupwiseFloatQuantTensor],
    value: Tensor,
    scale: Tensor | float,
    zero_point: Tensor | float,
    group_size: int | Tensor,
    group_dim: int | Tensor,
    exponent_bit_width: Tensor | float,
    mantissa_bit_width: Tensor | float,
    exponent_bias: Tensor | float,
    saturating: bool | Tensor,
    inf_values: Sequence[str] | None,
    nan_values: Sequence[str] | None,
    signed: bool | Tensor,
    training: bool | Tensor,
    dequant_shape: Sequence[int] | None = None,
) -> GroupwiseFloatQuantTensor:
    bits = {"exponent_bit_width": exponent_bit_width, "mantissa_bit_width": mantissa_bit_width}
    require_bits(cls, 0, **bits)
    size, dim, shape = as_group_constants(cls.__name__, value, group_size, group_dim, dequant_shape)
    return construct(
        cls,
        value,
        scale,
        zero_point,
        size,
        dim,
        exponent_bit_width,
        mantissa_bit_width,
        exponent_bias,
        saturating,
        as_codes(inf_values),
        as_codes(nan_values),
        signed,
        training,
        shape,
    )


# The base keeps the constructor, since tracers take a class for a named tuple only if it has the
# constructor of its base.
GroupwiseFloatQuantTensorBase.__new__ = _new  # type: ignore[method-assign]


@register_record
class GroupwiseFloatQuantTensor(GroupMixin, FloatMixin, QuantTensor, GroupwiseFloatQuantTensorBase):
    """Minifloat tensor in groups: `value = (minifloat - zero_point) * scale`.

    `value_`, `scale_` and `zero_point_` are stored in groups, `value`, `scale` and `zero_point`
    are in the shape of the tensor. Other invariants are those of `FloatQuantTensor`.

    Args:
        value: Real values in groups, `[.., groups, group_size, ..]`.
        scale: Real value of the minifloat 1, broadcastable to value. Python numbers become
            float32 tensors on the device of the value, here and below.
        zero_point: What is subtracted from the minifloats: zero.
        group_size: Elements of a group.
        group_dim: Dimension of the tensor along which the groups run.
        exponent_bit_width: Exponent bits.
        mantissa_bit_width: Mantissa bits.
        exponent_bias: What is subtracted from the exponent.
        saturating: Whether larger values become the largest number.
        inf_values: Mantissa codes of the largest exponent that stand for infinity, or None.
        nan_values: Those that stand for NaN, or None.
        signed: Whether there are negative numbers.
        training: Whether scales may still differ between operands.
        dequant_shape: Shape of the tensor; None if no group was filled up.

    Example:
        >>> x = GroupwiseFloatQuantTensor(torch.tensor([[[1., 2.], [.5, 0.]]]),
        ...     torch.tensor([[[1.], [.5]]]), 0., 2, 1, 4, 3, 7, True, None, ("111",), True, False,
        ...     dequant_shape=(1, 3))
        >>> x.value, x.minifloat()
        (tensor([[1.0000, 2.0000, 0.5000]]), tensor([[1., 2., 1.]]))

    Reference:
        Rouhani et al., "Microscaling Data Formats for Deep Learning", 2023.
    """

    __new__ = GroupwiseFloatQuantTensorBase.__new__
    _fields = tuple(FieldName(name) for name in GroupwiseFloatQuantTensorBase._fields)

    _function_handlers = (GROUPWISE_QUANT_TENSOR_FN_HANDLER,)
    _tensor_fields = (
        *("value_", "scale_", "zero_point_"),
        *("exponent_bit_width", "mantissa_bit_width", "exponent_bias"),
    )
    _broadcast_fields = ("scale_", "zero_point_")
    _flags = ("saturating", "signed", "training")
