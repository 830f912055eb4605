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
        return parameter.reshape(channel_size(self.kind, parameter.numel())).contiguous()


def channel_size(kind: str, channels: int) -> tuple[int, ...]:
    """Shape in which ``channels`` numbers broadcast against a view of this kind.

    Example:
        >>> channel_size("rows", 4), channel_size("columns", 4), channel_size("rows", 1)
        ((4, 1), (4,), ())
    """
    if channels == 1:
        return ()
    return (channels, 1) if kind in ("rows", "blocks") else (channels,)


def _inverse(order: Sequence[int]) -> list[int]:
    return [order.index(dim) for dim in range(len(order))]


def layout_of(x: Tensor, *shapes: torch.Size) -> Layout | None:
    """Find the view of ``x`` that scales and zero points of these shapes allow.

    Args:
        x: a tensor of any shape and memory format.
        *shapes: of one number each, or of one number per index of the same dimension of ``x``.

    Returns:
        The layout; None where a shape varies along more than one dimension, or where ``x``
        has fewer than two elements, or 2**31 and more.

    Example:
        >>> layout_of(torch.zeros(8, 3, 5, 5), torch.Size((1, 3, 1, 1))).size
        (8, 3, 25)
        >>> layout_of(torch.zeros(3, 2, 5), torch.Size((3, 1, 1))).kind
        'rows'
    """
    return _layout_of(x.shape, None if x.is_contiguous() else x.stride(), shapes)


@lru_cache(maxsize=4096)
def _layout_of(
    shape: torch.Size, strides: tuple[int, ...] | None, parameters: tuple[torch.Size, ...]
) -> Layout | None:
    if not 2 <= prod(shape) < 2**31:  # kernels count elements in 32 bits
        return None
    order = tuple(range(len(shape))) if strides is None else _memory_order(shape, strides)
    channel_dims = {_channel_dim(shape, parameter) for parameter in parameters} - {None}
    if len(channel_dims) > 1 or -1 in channel_dims:
        return None
    kept = None if order == tuple(range(len(shape))) else order
    if not channel_dims:
        return Layout("flat", (prod(shape),), kept, shape)
    position = order.index(channel_dims.pop())
    sizes = [shape[dim] for dim in order]
    outer, channels, inner = prod(sizes[:position]), sizes[position], prod(sizes[position + 1 :])
    kinds = {(False, False): "elements", (False, True): "rows", (True, False): "columns"}
    kind = kinds.get((outer > 1, inner > 1), "blocks")
    size = tuple(size for size in (outer, channels, inner) if size > 1)
    return Layout(kind, size, kept, shape)


def _channel_dim(shape: torch.Size, parameter: torch.Size) -> int | None:
    """Dimension along which a parameter varies; None for none, -1 if there is no single one."""
    if prod(parameter) == 1:
        return None
    aligned = (1,) * (len(shape) - len(parameter)) + tuple(parameter)
    varying = [dim for dim, size in enumerate(aligned) if size != 1]
    fits = len(aligned) == len(shape) and len(varying) == 1
    return varying[0] if fits and aligned[varying[0]] == shape[varying[0]] else -1


def _memory_order(shape: torch.Size, strides: tuple[int, ...]) -> tuple[int, ...]:
    """Dimensions from the slowest to the fastest in memory; as they are where memory has gaps."""
    order = sorted(range(len(shape)), key=lambda dim: (-strides[dim], dim))
    expected = 1
    for dim in reversed(order):
        if shape[dim] != 1 and strides[dim] != expected:
            return tuple(range(len(shape)))
        expected *= shape[dim]
    return tuple(order)
