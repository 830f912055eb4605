"""Which operators of a traced model run on quantized tensors, and how. Layer: export (L8)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from brevitas.export.torch.recording import sliced

__all__ = [
    "CLAMPS",
    "CONVOLUTIONS",
    "JOINING",
    "LAYERS",
    "SPLITTING",
    "TRANSPOSED",
    "is_padding_with_zeros",
    "moving",
]

aten = torch.ops.aten


# Operators that move values without changing them, or keep the largest.
_MOVING: dict[Any, Callable[..., Tensor]] = {
    aten.alias.default: aten.alias.default,
    aten.channel_shuffle.default: torch.channel_shuffle,
    aten.clone.default: torch.clone,
    aten.contiguous.default: torch.Tensor.contiguous,
    aten.detach.default: torch.detach,
    aten.expand.default: torch.Tensor.expand,
    aten.flatten.using_ints: torch.flatten,
    aten.flip.default: torch.flip,
    aten.index.Tensor: aten.index.Tensor,
    aten.index_select.default: torch.index_select,
    aten.max_pool1d.default: torch.max_pool1d,
    aten.max_pool2d.default: torch.max_pool2d,
    aten.permute.default: torch.permute,
    aten.pixel_shuffle.default: torch.pixel_shuffle,
    aten.pixel_unshuffle.default: torch.pixel_unshuffle,
    aten.repeat.default: torch.Tensor.repeat,
    aten.reshape.default: torch.reshape,
    aten.select.int: torch.select,
    aten.slice.Tensor: sliced,
    aten.squeeze.default: torch.squeeze,
    aten.squeeze.dim: torch.squeeze,
    aten.squeeze.dims: torch.squeeze,
    aten.t.default: torch.t,
    aten.tile.default: torch.tile,
    aten.transpose.int: torch.transpose,
    aten.unsqueeze.default: torch.unsqueeze,
    aten.upsample_nearest2d.vec: aten.upsample_nearest2d.vec,
    aten._unsafe_view.default: torch.reshape,
    aten.view.default: torch.reshape,
}

# The same, where no kernel of PyTorch takes quantized tensors.
_MOVING_REAL = (
    aten.max_pool3d.default,
    aten.roll.default,
    aten.upsample_nearest1d.vec,
)

# Operators that give several tensors, each with some of the values.
SPLITTING: dict[Any, Callable[..., Sequence[Tensor]]] = {
    aten.chunk.default: torch.chunk,
    aten.split.Tensor: torch.split,
    aten.split_with_sizes.default: torch.split_with_sizes,
    aten.unbind.int: torch.unbind,
}

JOINING: dict[Any, Callable[..., Tensor]] = {
    aten.add.Tensor: torch.ops.quantized.add,
    aten.mul.Tensor: torch.ops.quantized.mul,
}

CONVOLUTIONS = {
    overload: dimensions
    for dimensions, packet in ((1, aten.conv1d), (2, aten.conv2d), (3, aten.conv3d))
    for overload in (packet.default, packet.padding)
}

TRANSPOSED = (
    aten.conv_transpose1d.default,
    aten.conv_transpose2d.input,
    aten.conv_transpose3d.input,
)

# Operators whose weight is to be integers, if it is quantized, and where their weight may stand.
LAYERS: dict[Any, tuple[int, ...]] = {
    aten.linear.default: (0, 1),
    **dict.fromkeys(CONVOLUTIONS, (0, 1)),
    **dict.fromkeys(TRANSPOSED, (0, 1)),
    **dict.fromkeys((aten.matmul.default, aten.mm.default, aten.bmm.default), (0, 1)),
    **dict.fromkeys((aten.addmm.default, aten.baddbmm.default), (1, 2)),
    aten.einsum.default: (1,),
}

# Arguments (minimum, maximum) of operators that clamp, behind the input.
CLAMPS: dict[Any, Callable[..., tuple[float, float]]] = {
    aten.clamp.default: lambda low=None, high=None: (
        -math.inf if low is None else low,
        math.inf if high is None else high,
    ),
    aten.clamp_max.default: lambda high: (-math.inf, high),
    aten.clamp_min.default: lambda low: (low, math.inf),
    aten.hardtanh.default: lambda low=-1.0, high=1.0: (low, high),
    aten.relu.default: lambda: (0.0, math.inf),
    aten.relu6.default: lambda: (0.0, 6.0),
}


def moving(target: Any, rest: Any, kwargs: Any) -> Callable[[Tensor], Tensor] | None:
    """Return what moves the values of a quantized tensor, for an operator that does nothing else.

    Args:
        target: the operator.
        rest: its arguments behind the tensor.
        kwargs: its keyword arguments.

    Returns:
        Function from one quantized tensor to another on the same grid, or None.
    """
    if target in _MOVING:
        function = _MOVING[target]
        return lambda x: function(x, *rest, **kwargs)
    if target in _MOVING_REAL:
        return lambda x: _as_real(x, lambda real: target(real, *rest, **kwargs))
    if target is aten.dropout.default and not rest[1]:
        return lambda x: x
    if target is aten.pad.default:
        mode = rest[1] if len(rest) > 1 else "constant"
        if is_padding_with_zeros(target, rest):
            return lambda x: F.pad(x, list(rest[0]))
        # Of these, PyTorch has kernels for reflection in one and two dimensions only.
        if mode == "reflect" and len(rest[0]) <= 4:
            return lambda x: F.pad(x, list(rest[0]), mode)
        if mode != "constant":
            return lambda x: _as_real(x, lambda real: F.pad(real, list(rest[0]), mode))
    return None


def is_padding_with_zeros(target: Any, rest: Any) -> bool:
    """Whether an operator puts zeros around values, which a clamp behind it may change."""
    if target is not aten.pad.default:
        return False
    mode, fill = (*rest[1:], *("constant", None)[len(rest) - 1 :])
    return mode == "constant" and not fill


def _as_real(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Move the values of a quantized tensor where no kernel moves its integers."""
    real = function(x.dequantize())
    return torch.quantize_per_tensor(real, x.q_scale(), x.q_zero_point(), torch.quint8)
