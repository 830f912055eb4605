"""How scales and zero points follow their value through a change of its shape.

Layer: quant_tensor (L2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def is_per_tensor(field: Tensor) -> bool:
    """Whether one number serves the whole value."""
    return all(size == 1 for size in field.shape)


def fit_per_tensor(field: Tensor, rank: int) -> Tensor:
    """A per-tensor field without more dimensions than the value has."""
    return field.reshape((1,) * rank) if field.dim() > rank else field


def blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[range, range]]:
    """Smallest runs of dimensions of two shapes with equal products, in order."""
    blocks = []
    i = j = 0
    while i < len(old) or j < len(new):
        start, old_size, new_size = (i, j), 1, 1
        if i < len(old):
            old_size, i = old[i], i + 1
        if j < len(new):
            new_size, j = new[j], j + 1
        while old_size != new_size:
            if (old_size < new_size and i < len(old)) or j >= len(new):
                old_size, i = old_size * old[i], i + 1
            else:
                new_size, j = new_size * new[j], j + 1
        blocks.append((range(start[0], i), range(start[1], j)))
    return blocks


def reshape_field(field: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor:
    """Reshape a field along with its value.

    Runs of dimensions along which the field is constant collapse to 1; others are expanded.

    Args:
        field: Scale or zero point, broadcastable to `old`.
        old: Shape of the value before.
        new: Shape of the value after.

    Returns:
        Field broadcastable to `new`.

    Example:
        >>> reshape_field(torch.ones(1, 4, 1, 1), (2, 4, 6, 6), (2, 4, 36)).shape
        torch.Size([1, 4, 1])
        >>> reshape_field(torch.ones(1, 4, 1, 1), (2, 4, 6, 6), (2, 144)).shape
        torch.Size([1, 144])
    """
    if is_per_tensor(field):
        return fit_per_tensor(field, len(new))
    if 0 in old:
        return field.new_ones((1,) * len(new))
    sizes = (1,) * (len(old) - field.dim()) + tuple(field.shape)
    expanded, reshaped = list(sizes), [1] * len(new)
    for old_dims, new_dims in blocks(old, new):
        if any(sizes[d] != 1 for d in old_dims):
            for d in old_dims:
                expanded[d] = old[d]
            for d in new_dims:
                reshaped[d] = new[d]
    return field.reshape(sizes).expand(expanded).reshape(reshaped)


def permute_field(field: Tensor, rank: int, permute: Callable[[Tensor], Tensor]) -> Tensor:
    """Permute the dimensions of a field along with its value of `rank` dimensions."""
    if field.dim() < rank and is_per_tensor(field):
        return field
    sizes = (1,) * (rank - field.dim()) + tuple(field.shape)
    return permute(field.reshape(sizes))


def move_field(field: Tensor, value: Tensor, move: Callable[[Tensor], Any]) -> Any:
    """Apply an operation that only moves elements to a field, expanded as far as needed.

    Args:
        field: Scale or zero point, broadcastable to `value`.
        value: Value before the operation.
        move: Operation that copies elements without changing them.

    Returns:
        Field that belongs to `move(value)`.
    """
    if is_per_tensor(field):
        return field
    return move(torch.broadcast_to(field, value.shape))
