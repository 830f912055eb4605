"""Views of a tensor as [outer, channel, inner], so that few compiled kernels serve all shapes.

Layer: ops (L1).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Layout", "layout_of"]


class Layout(NamedTuple):
    """How a tensor and the per-channel tensors beside it are viewed.

    Invariants: every size in ``size`` is at least two, so that no kernel is compiled for the
    special sizes zero and one; ``order`` lists the dimensions as they lie in memory.

    | kind | a tensor | per channel |
    |---|---|---|
    | flat | ``[n]`` | - |
    | elements | ``[channel]`` | ``[channel]`` |
    | rows | ``[channel, inner]`` | ``[channel, 1]`` |
    | columns | ``[outer, channel]`` | ``[channel]`` |
    | blocks | ``[outer, channel, inner]`` | ``[channel, 1]`` |
    | groups | ``[channel, inner, channel]`` | ``[channel, 1, channel]`` |
    """

    kind: str
    size: tuple[int, ...]
    order: tuple[int, ...] | None
    shape: torch.Size

    def flatten(self, x: Tensor) -> Tensor:
        """View a tensor of the layout's shape, contiguous: a copy where its memory has gaps."""
        x = x if self.order is None else x.permute(self.order)
        return x.reshape(self.size).contiguous()

    def restore(self, flat: Tensor) -> Tensor:
        """Bring the view of a tensor back into the layout's shape."""
        if self.order is None:
            return flat.view(self.shape)
        permuted = flat.view([self.shape[dim] for dim in self.order])
        return permuted.permute(*_inverse(self.order))

    def restore_owned(self, flat: Tensor) -> Tensor:
        """Bring a new tensor into the layout's shape, as an owner of its memory, not as a view."""
        if self.order is None:
            return torch.ops.aten._unsafe_view(flat, self.shape)
        strides = self.restore(flat).stride()
        memory = flat.untyped_storage()
        return flat.new_empty(0).set_(memory, flat.storage_offset(), self.shape, strides)

    def flatten_channels(self, parameter: Tensor) -> Tensor:
        """View one number, or one number per channel, so that it broadcasts to the view."""
        size = () if parameter.numel() == 1 else channel_size(self.kind, self.size)
        return parameter.reshape(size).contiguous()


# Which parts of a view count channels -> name of the view.
_KINDS = {
    (): "flat",
    (False,): "flat",
    (True,): "elements",
    (True, False): "rows",
    (False, True): "columns",
    (False, True, False): "blocks",
    (True, False, True): "groups",
}


def channel_size(kind: str, size: tuple[int, ...]) -> tuple[int, ...]:
    """Shape in which one number per channel broadcasts against a view of this kind and size.

    Example:
        >>> channel_size("rows", (4, 9)), channel_size("columns", (9, 4))
        ((4, 1), (4,))
        >>> channel_size("groups", (4, 9, 5))
        (4, 1, 5)
    """
    if kind == "groups":
        return size[0], 1, size[2]
    if kind == "blocks":
        return size[1], 1
    return (size[0], 1) if kind == "rows" else size[-1:]


def _inverse(order: Sequence[int]) -> list[int]:
    return [order.index(dim) for dim in range(len(order))]


def layout_of(x: Tensor, *shapes: torch.Size) -> Layout | None:
    """Find the view of ``x`` that scales and zero points of these shapes allow.

    Args:
        x: a tensor of any shape and memory format.
        *shapes: of one number each, or of one number per index of the same dimensions of ``x``.

    Returns:
        The layout; None where shapes vary along dimensions that are not the same or lie in three
        places, or where ``x`` has fewer than two elements, or 2**31 and more.

    Example:
        >>> layout_of(torch.zeros(8, 3, 5, 5), torch.Size((1, 3, 1, 1))).size
        (8, 3, 25)
        >>> layout_of(torch.zeros(3, 2, 5), torch.Size((3, 1, 1))).kind
        'rows'
        >>> layout_of(torch.zeros(6, 2, 4, 3, 3), torch.Size((6, 2, 1, 3, 3))).size
        (12, 4, 9)
    """
    return _layout_of(x.shape, None if x.is_contiguous() else x.stride(), shapes)


@lru_cache(maxsize=4096)
def _layout_of(
    shape: torch.Size, strides: tuple[int, ...] | None, parameters: tuple[torch.Size, ...]
) -> Layout | None:
    if not 2 <= prod(shape) < 2**31:  # kernels count elements in 32 bits
        return None
    as_they_are = tuple(range(len(shape)))
    varying = {_varying_dims(shape, parameter) for parameter in parameters} - {frozenset()}
    if len(varying) > 1 or None in varying:
        return None
    channels = next(iter(varying), None) or frozenset()
    # Several dimensions of a parameter are read in their own order.
    order = as_they_are
    if strides is not None and len(channels) <= 1:
        order = _memory_order(shape, strides)
    parts: list[tuple[bool, int]] = []
    for dim in order:
        if shape[dim] == 1:
            continue
        is_channel = dim in channels
        if parts and parts[-1][0] is is_channel:
            parts[-1] = (is_channel, parts[-1][1] * shape[dim])
        else:
            parts.append((is_channel, shape[dim]))
    kind = _KINDS.get(tuple(is_channel for is_channel, _ in parts))
    if kind is None:
        return None
    kept = None if order == as_they_are else order
    return Layout(kind, tuple(size for _, size in parts), kept, shape)


def _varying_dims(shape: torch.Size, parameter: torch.Size) -> frozenset[int] | None:
    """Dimensions along which a parameter varies; None where it does not broadcast to the shape."""
    if prod(parameter) == 1:
        return frozenset()
    aligned = (1,) * (len(shape) - len(parameter)) + tuple(parameter)
    if len(aligned) != len(shape):
        return None
    varying = frozenset(dim for dim, size in enumerate(aligned) if size != 1)
    return varying if all(aligned[dim] == shape[dim] for dim in varying) else None


def _memory_order(shape: torch.Size, strides: tuple[int, ...]) -> tuple[int, ...]:
    """Dimensions from the slowest to the fastest in memory; as they are where memory has gaps."""
    order = sorted(range(len(shape)), key=lambda dim: (-strides[dim], dim))
    expected = 1
    for dim in reversed(order):
        if shape[dim] != 1 and strides[dim] != expected:
            return tuple(range(len(shape)))
        expected *= shape[dim]
    return tuple(order)
