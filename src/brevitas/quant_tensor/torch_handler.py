"""Torch functions that keep every kind of quantized tensor quantized: they select or move values.

Layer: quant_tensor (L2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from brevitas.quant_tensor._broadcast_fields import (
    fit_per_tensor,
    is_per_tensor,
    move_field,
    permute_field,
    reshape_field,
)
from brevitas.quant_tensor._tensor_interface import (
    in_place_functions,
    refuse_in_place,
    tensor_functions,
)
from brevitas.quant_tensor.base_quant_tensor import QuantTensor, _unpack_quant_tensor

__all__ = ["QUANT_TENSOR_FN_HANDLER", "implements", "quant_invariant_handler"]

Handler = Callable[..., Any]

# torch function -> its rule; a function that is not here gives a plain tensor.
QUANT_TENSOR_FN_HANDLER: dict[Any, Handler] = {}


def implements(*torch_functions: Any) -> Callable[[Handler], Handler]:
    """Decorator that registers a rule for torch functions.

    Args:
        *torch_functions: Functions as torch dispatches them.

    Returns:
        Decorator that returns its argument.
    """

    def register(handler: Handler) -> Handler:
        for torch_function in torch_functions:
            QUANT_TENSOR_FN_HANDLER[torch_function] = handler
        return handler

    return register


def _field_set(inp: Any, value: Tensor, change: Callable[[Tensor], Tensor]) -> Any:
    """The record around a new value, with `change` applied to scale, zero point and the like."""
    fields = {name: getattr(inp, name) for name in inp._broadcast_fields}
    if all(field.dim() == 0 for field in fields.values()):
        return inp._derive(value)
    return inp._derive(value, **{name: change(field) for name, field in fields.items()})


def quant_invariant_handler(fn: Handler, inp: Any, *args: Any, **kwargs: Any) -> Any:
    """Apply a function that selects among the values of each channel.

    Args:
        fn: Function such as a maximum pool or a clamp to the quantization grid.
        inp: Quantized tensor.
        *args: Further arguments of `fn`.
        **kwargs: Further arguments of `fn`.

    Returns:
        Quantized tensor, first in a tuple if `fn` returns one. Plain tensor if a scale or zero
        point no longer fits the shape.
    """
    output = fn(inp.value, *args, **kwargs)
    value = output[0] if isinstance(output, tuple) else output
    if not inp._fits(value):
        return output
    result = inp._around(value)
    return (result, *output[1:]) if isinstance(output, tuple) else result


def _move(fn: Handler) -> Handler:
    """Rule of a function that only copies elements: per-channel fields are moved along."""

    def handler(inp: Any, *args: Any, **kwargs: Any) -> Any:
        def move(tensor: Tensor) -> Tensor:
            return fn(tensor, *args, **kwargs)

        def change(field: Tensor) -> Tensor:
            moved = move_field(field, inp.value, move)
            return fit_per_tensor(moved, value.dim()) if is_per_tensor(moved) else moved

        value = move(inp.value)
        return _field_set(inp, value, change)

    return handler


def _permute(fn: Handler) -> Handler:
    """Rule of a function that permutes dimensions."""

    def handler(inp: Any, *args: Any, **kwargs: Any) -> Any:
        def permute(tensor: Tensor) -> Tensor:
            return fn(tensor, *args, **kwargs)

        rank = inp.value.dim()
        return _field_set(
            inp, permute(inp.value), lambda field: permute_field(field, rank, permute)
        )

    return handler


def _reshape(fn: Handler) -> Handler:
    """Rule of a function that keeps the elements in their order."""

    def handler(inp: Any, *args: Any, **kwargs: Any) -> Any:
        value = fn(inp.value, *args, **kwargs)
        old, new = inp.value.shape, value.shape
        return _field_set(inp, value, lambda field: reshape_field(field, old, new))

    return handler


def _invariant(fn: Handler) -> Handler:
    """Rule of a function that selects among the values of each channel."""

    def handler(input: Any, *args: Any, inplace: bool = False, **kwargs: Any) -> Any:
        # A quantized tensor is immutable: an in-place variant returns its result, too.
        return quant_invariant_handler(fn, input, *args, **kwargs)

    return handler


def _dropout(fn: Handler, keeps_zeros: bool) -> Handler:
    """Rule of a dropout: in training the values left over grow, and the scale with them."""

    def handler(
        inp: Any, p: float = 0.5, training: bool = True, inplace: bool = False, **kwargs: Any
    ) -> Any:
        value = fn(inp.value, p=p, training=training, **kwargs)
        if not training or p == 0:
            return inp._around(value)
        if not keeps_zeros or p == 1:
            return value
        scale = inp._broadcast_fields[0]
        return inp._around(value, **{scale: getattr(inp, scale) / (1 - p)})

    return handler


def _in_place(fn: Handler) -> Handler:
    """Rule of a function that writes into its first argument: a plain tensor takes the values."""

    def handler(input: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(input, QuantTensor):
            refuse_in_place(type(input), fn.__name__)
        return fn(input, *_unpack_quant_tensor(args), **_unpack_quant_tensor(kwargs))

    return handler


# Names of functions that keep the order of the elements.
RESHAPES = (
    *("reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "ravel"),
    *("reshape_as", "view_as"),
)
_RULES: tuple[tuple[Callable[[Handler], Handler], tuple[str, ...]], ...] = (
    (_permute, ("transpose", "permute", "swapaxes", "swapdims", "movedim", "moveaxis", "t")),
    (_reshape, RESHAPES),
    (_move, ("__getitem__", "select", "narrow", "index_select", "flip", "roll", "gather")),
    (_move, ("expand", "expand_as", "broadcast_to", "repeat", "repeat_interleave", "tile")),
    (_move, ("pixel_shuffle", "pixel_unshuffle", "channel_shuffle")),
    (_invariant, ("relu",)),
)
for _rule, _names in _RULES:
    for _function in tensor_functions(*_names):
        implements(_function)(_rule(_function))

# Functions that write into a tensor: refused for every kind of quantized tensor.
IN_PLACE_FN_HANDLER: dict[Any, Handler] = {f: _in_place(f) for f in in_place_functions()}
QUANT_TENSOR_FN_HANDLER.update(IN_PLACE_FN_HANDLER)

# Functions that compute each element from the one at its place.
CLAMPS = (F.relu, F.relu6, F.hardtanh, *tensor_functions("relu"))
DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.feature_alpha_dropout)

for _function in (
    *(F.relu, F.relu6, F.hardtanh),
    *(F.max_pool1d, F.max_pool2d, F.max_pool3d),
    *(F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d),
    *(F.max_pool1d_with_indices, F.max_pool2d_with_indices, F.max_pool3d_with_indices),
    F.adaptive_max_pool1d_with_indices,
    F.adaptive_max_pool2d_with_indices,
    F.adaptive_max_pool3d_with_indices,
    *(torch.max_pool1d, torch.max_pool2d, torch.max_pool3d),
):
    implements(_function)(_invariant(_function))

for _function in DROPOUTS:
    implements(_function)(_dropout(_function, _function is not F.feature_alpha_dropout))
implements(F.alpha_dropout)(_dropout(F.alpha_dropout, False))


@implements(F.pad, torch.constant_pad_nd)
def pad_handler(inp: Any, pad: Any, mode: str = "constant", value: float | None = None) -> Any:
    """`torch.nn.functional.pad`: quantized if it pads with zeros or with values of the tensor."""
    padded = F.pad(inp.value, pad, mode, value)
    if mode == "constant" and value:
        return padded
    return quant_invariant_handler(lambda x: padded, inp)


@implements(F.interpolate)
def interpolate_handler(
    inp: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    **kwargs: Any,
) -> Any:
    """`torch.nn.functional.interpolate`: quantized if it copies the nearest values."""

    def interpolate(x: Tensor) -> Tensor:
        return F.interpolate(
            x, size, scale_factor, mode, align_corners, recompute_scale_factor, **kwargs
        )

    if mode not in ("nearest", "nearest-exact"):
        return interpolate(inp.value)
    return quant_invariant_handler(interpolate, inp)


def embedding(input: Tensor, quant_weight: Any, *args: Any, **kwargs: Any) -> Any:
    """`torch.nn.functional.embedding`: rows of a quantized table, with the scales of those rows."""
    input = _unpack_quant_tensor(input)
    value = F.embedding(input, _unpack_quant_tensor(quant_weight), *args, **kwargs)
    if not isinstance(quant_weight, QuantTensor):
        return value
    fields = {}
    for name in quant_weight._broadcast_fields:
        field = getattr(quant_weight, name)
        if not is_per_tensor(field):
            table = field.expand(quant_weight.value.shape[0], -1) if field.dim() == 2 else field
            field = table[input] if field.dim() == 2 else field
        fields[name] = field
    return quant_weight._derive(value, **fields)
