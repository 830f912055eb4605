"""What is known about quantized tensors by their fields alone. Layer: utils (L0)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from brevitas.utils.groups import expand_over_groups, merge_groups

Field = TypeVar("Field")

__all__ = [
    "_CachedIO",
    "_CachedIOFloat",
    "_CachedIOGroupwiseFloat",
    "_CachedIOGroupwiseInt",
    "groupwise_dequant_expand",
]


def groupwise_dequant_expand(
    value_: Tensor,
    scale_: Tensor,
    zero_point_: Tensor,
    group_dim: int,
    dequant_shape: Sequence[int],
    expand_metadata: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Bring values in groups, and what belongs to the groups, into the shape of the tensor.

    Args:
        value_: `[.., groups, group_size, ..]`.
        scale_: As the value, with size 1 where it is shared; or one number.
        zero_point_: As the scale.
        group_dim: Dimension along which the groups run, of the tensor without groups.
        dequant_shape: Shape of the tensor; smaller than the groups where the last was filled up.
        expand_metadata: Bring scale and zero point into the shape, too, unless they are one
            number.

    Returns:
        Value, scale and zero point.

    Example:
        >>> value, scale, _ = groupwise_dequant_expand(
        ...     torch.arange(4.0).reshape(2, 2), torch.tensor([[1.0], [2.0]]), torch.zeros(()), 0,
        ...     (3,))
        >>> value, scale
        (tensor([0., 1., 2.]), tensor([1., 1., 2.]))
    """
    dim = group_dim % len(dequant_shape)
    value = merge_groups(value_, dim, dequant_shape[dim])
    if not expand_metadata:
        return value, scale_, zero_point_
    to = (value_.shape, dim, dequant_shape[dim])
    return value, expand_over_groups(scale_, *to), expand_over_groups(zero_point_, *to)


class _Kept(Generic[Field]):
    """A field of the tensor that a cache keeps, by the name it has there."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, cached: Any, owner: type | None = None) -> Field:
        return getattr(cached.quant_tensor, self.name)


class _CachedIO:
    """A quantized tensor kept for later, with or without its values.

    Args:
        quant_tensor: the quant tensor to keep, detached.
        metadata_only: keep scale, zero point and the like but not the values.
    """

    def __init__(self, quant_tensor: Any, metadata_only: bool) -> None:
        self.shape: torch.Size = quant_tensor.shape
        self.metadata_only = metadata_only
        detached = quant_tensor.detach()
        self.quant_tensor = detached._without_value() if metadata_only else detached

    scale = _Kept[Tensor]()
    zero_point = _Kept[Tensor]()
    bit_width = _Kept[Tensor]()
    signed = _Kept[bool]()
    training = _Kept[bool]()


class _CachedIOFloat(_CachedIO):
    """A minifloat tensor kept for later; see `_CachedIO`."""

    exponent_bit_width = _Kept[Tensor]()
    mantissa_bit_width = _Kept[Tensor]()
    exponent_bias = _Kept[Tensor]()
    saturating = _Kept[bool]()
    inf_values = _Kept[tuple[str, ...] | None]()
    nan_values = _Kept[tuple[str, ...] | None]()


class _CachedIOGroupwiseInt(_CachedIO):
    """An affine integer tensor in groups kept for later; see `_CachedIO`."""

    scale_ = _Kept[Tensor]()
    zero_point_ = _Kept[Tensor]()
    group_size = _Kept[int]()
    group_dim = _Kept[int]()


class _CachedIOGroupwiseFloat(_CachedIOFloat, _CachedIOGroupwiseInt):
    """A minifloat tensor in groups kept for later; see `_CachedIO`."""
