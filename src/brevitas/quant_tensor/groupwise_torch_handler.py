"""Torch functions that keep the groups of a tensor with a scale for each group whole.

Layer: quant_tensor (L2).

Where a function takes groups apart, the result is a plain tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from brevitas.quant_tensor import _shared_arithmetic as shared
from brevitas.quant_tensor._broadcast_fields import blocks, permute_field, reshape_field
from brevitas.quant_tensor._tensor_interface import tensor_functions
from brevitas.quant_tensor.int_torch_handler import with_zeros
from brevitas.quant_tensor.torch_handler import (
    CLAMPS,
    DROPOUTS,
    IN_PLACE_FN_HANDLER,
    QUANT_TENSOR_FN_HANDLER,
    RESHAPES,
)
from brevitas.utils.groups import grouped_shape

__all__ = ["GROUPWISE_QUANT_TENSOR_FN_HANDLER"]

Handler = Callable[..., Any]

# torch function -> its rule for tensors with groups; other functions give plain tensors.
GROUPWISE_QUANT_TENSOR_FN_HANDLER: dict[Any, Handler] = {
    **IN_PLACE_FN_HANDLER,
    **{f: with_zeros(QUANT_TENSOR_FN_HANDLER[f]) for f in CLAMPS},
    **{f: QUANT_TENSOR_FN_HANDLER[f] for f in DROPOUTS},
    **dict.fromkeys(tensor_functions("neg", "negative", "__neg__"), shared.negate),
    **dict.fromkeys(tensor_functions("abs", "absolute", "__abs__"), shared.absolute),
}


def _swapped(rank: int, *given: int, **named: int) -> list[int]:
    first, second = (dim % rank for dim in (*given, *named.values()))
    order = list(range(rank))
    order[first], order[second] = second, first
    return order


def _permuted(rank: int, *given: Any, dims: Any = None) -> list[int]:
    if dims is None:
        dims = given[0] if isinstance(given[0], (tuple, list)) else given
    return [dim % rank for dim in dims]


def _moved(rank: int, source: Any, destination: Any) -> list[int]:
    pairs = [(dims,) if isinstance(dims, int) else dims for dims in (source, destination)]
    sources, places = ([dim % rank for dim in dims] for dims in pairs)
    taken = dict(zip(places, sources, strict=True))
    others = iter([dim for dim in range(rank) if dim not in sources])
    return [taken[place] if place in taken else next(others) for place in range(rank)]


def _reversed(rank: int) -> list[int]:
    return list(range(rank))[::-1]


# Name of a function -> which dimension it puts at each place, from the rank and its arguments.
_ORDERS: dict[str, Callable[..., list[int]]] = {
    "transpose": _swapped,
    "swapaxes": _swapped,
    "swapdims": _swapped,
    "permute": _permuted,
    "movedim": _moved,
    "moveaxis": _moved,
    "t": _reversed,
}


def _permute(find_order: Callable[..., list[int]]) -> Handler:
    """Rule of a function that permutes dimensions: the two of the groups stay together."""

    def handler(inp: Any, *args: Any, **kwargs: Any) -> Any:
        rank = len(inp.shape)
        dim = inp.group_dim % rank
        order = find_order(rank, *args, **kwargs)
        stored: list[int] = []
        for d in order:
            stored += [d, d + 1] if d == dim else [d + (d > dim)]
        fields = {
            name: permute_field(getattr(inp, name), rank + 1, lambda x: x.permute(stored))
            for name in inp._broadcast_fields
        }
        return inp._derive(
            inp.value_.permute(stored),
            **fields,
            group_dim=_signed_like(inp.group_dim, order.index(dim), rank),
            dequant_shape=torch.Size([inp.shape[d] for d in order]),
        )

    return handler


def _signed_like(given: int, dim: int, rank: int) -> int:
    """A dimension, counted from the end if the given one is."""
    return dim - rank if given < 0 else dim


def _group_dim_after(old: Sequence[int], new: Sequence[int], dim: int, size: int) -> int | None:
    """Where the groups run after a reshape, None if it takes them apart.

    Args:
        old: Shape before.
        new: Shape after.
        dim: Dimension along which the groups run before.
        size: Elements of a group.
    """
    if 0 in old:
        return None
    for old_dims, new_dims in blocks(old, new):
        if dim not in old_dims:
            continue
        before = [d for d in old_dims if old[d] != 1]
        after = [d for d in new_dims if new[d] != 1]
        if dim not in before:  # a single element
            return None
        if [old[d] for d in before] == [new[d] for d in after]:  # only ones come or go
            return after[before.index(dim)]
        is_whole = old[dim] % size == 0 and new[after[-1]] % size == 0
        return after[-1] if dim == before[-1] and is_whole else None
    return None


def _reshape(fn: Handler) -> Handler:
    """Rule of a function that keeps the elements in their order."""

    def handler(inp: Any, *args: Any, **kwargs: Any) -> Any:
        # Where the last group is filled up, the value is a part of it: not contiguous.
        value = fn(inp.value.contiguous(), *args, **kwargs)
        old, new, size = inp.shape, value.shape, inp.group_size
        dim = inp.group_dim % len(old)
        new_dim = _group_dim_after(old, new, dim, size)
        if new_dim is None:
            return value
        stored = grouped_shape(new, size, new_dim)
        fields = {
            name: reshape_field(getattr(inp, name), inp.value_.shape, stored)
            for name in inp._broadcast_fields
        }
        return inp._derive(
            inp.value_.reshape(stored),
            **fields,
            group_dim=_signed_like(inp.group_dim, new_dim, len(new)),
            dequant_shape=new,
        )

    return handler


for _name, _find_order in _ORDERS.items():
    for _function in tensor_functions(_name):
        GROUPWISE_QUANT_TENSOR_FN_HANDLER[_function] = _permute(_find_order)

for _function in tensor_functions(*RESHAPES):
    GROUPWISE_QUANT_TENSOR_FN_HANDLER[_function] = _reshape(_function)
