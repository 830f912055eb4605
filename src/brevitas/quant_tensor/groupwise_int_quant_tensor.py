"""An affine integer tensor with one scale for each group of elements.

Layer: quant_tensor (L2).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from brevitas.quant_tensor._group_mixin import GroupMixin, as_group_constants
from brevitas.quant_tensor._record import construct, register_record, require_bits
from brevitas.quant_tensor.base_quant_tensor import (
    FieldName,
    GroupwisIntQuantTensorBase,
    IntMixin,
    QuantTensor,
)
from brevitas.quant_tensor.groupwise_torch_handler import GROUPWISE_QUANT_TENSOR_FN_HANDLER

__all__ = ["GroupwiseIntQuantTensor"]


def _new(
    cls: type[GroupwiseIntQuantTensor],
    value: Tensor,
    scale: Tensor | float,
    zero_point: Tensor | float,
    group_size: int | Tensor,
    group_dim: int | Tensor,
    bit_width: Tensor | float,
    signed: bool | Tensor,
    training: bool | Tensor,
    dequant_shape: Sequence[int] | None = None,
) -> GroupwiseIntQuantTensor:
    require_bits(cls, 1, bit_width=bit_width)
    constants = as_group_constants(cls.__name__, value, group_size, group_dim, dequant_shape)
    size, dim, shape = constants
    return construct(cls, value, scale, zero_point, size, dim, bit_width, signed, training, shape)


# The base keeps the constructor, since tracers take a class for a named tuple only if it has the
# constructor of its base.
GroupwisIntQuantTensorBase.__new__ = _new  # type: ignore[method-assign]


@register_record
class GroupwiseIntQuantTensor(GroupMixin, IntMixin, QuantTensor, GroupwisIntQuantTensorBase):
    """Affine integer tensor in groups: `value = (integer - zero_point) * scale`.

    `value_`, `scale_` and `zero_point_` are stored in groups, `value`, `scale` and `zero_point`
    are in the shape of the tensor. Other invariants are those of `IntQuantTensor`.

    Args:
        value: Real values in groups, `[.., groups, group_size, ..]`.
        scale: Real value of one integer step, broadcastable to value. Python numbers become
            float32 tensors on the device of the value, here and below.
        zero_point: Integer that stands for zero, broadcastable to value.
        group_size: Elements of a group.
        group_dim: Dimension of the tensor along which the groups run.
        bit_width: Bits of the integers.
        signed: Whether the integers have a sign.
        training: Whether scales may still differ between operands.
        dequant_shape: Shape of the tensor; None if no group was filled up.

    Example:
        >>> x = GroupwiseIntQuantTensor(torch.tensor([[[1., 2.], [.5, 0.]]]),
        ...     torch.tensor([[[1.], [.5]]]), 0., 2, 1, 8, True, False, dequant_shape=(1, 3))
        >>> x.value, x.int()
        (tensor([[1.0000, 2.0000, 0.5000]]), tensor([[1, 2, 1]], dtype=torch.int8))

    Reference:
        Rouhani et al., "Microscaling Data Formats for Deep Learning", 2023.
    """

    __new__ = GroupwisIntQuantTensorBase.__new__
    _fields = tuple(FieldName(name) for name in GroupwisIntQuantTensorBase._fields)

    _function_handlers = (GROUPWISE_QUANT_TENSOR_FN_HANDLER,)
    _tensor_fields = ("value_", "scale_", "zero_point_", "bit_width")
    _broadcast_fields = ("scale_", "zero_point_")
