"""Modules that hold a packed weight and call one quantized operator of PyTorch.

Layer: export (L8).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from brevitas.export.common.integers import Integers

__all__ = ["Geometry", "QuantizedLayer", "quantized_layer", "may_overflow", "quantized_weight"]

# The largest 16-bit integer: x86 CPUs without VNNI add two products of 8-bit integers in one.
_INT16_MAX = 32767

# By dimensions of the weight: pack, compute. A matrix has two.
_OPERATORS: dict[int, tuple[Callable[..., Any], Callable[..., Any]]] = {
    2: (torch.ops.quantized.linear_prepack, torch.ops.quantized.linear),
    3: (torch.ops.quantized.conv1d_prepack, torch.ops.quantized.conv1d),
    4: (torch.ops.quantized.conv2d_prepack, torch.ops.quantized.conv2d),
    5: (torch.ops.quantized.conv3d_prepack, torch.ops.quantized.conv3d),
}


@dataclass(frozen=True)
class Geometry:
    """How the kernel of a convolution moves, one number per spatial dimension."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int

    def arguments(self) -> tuple[list[int], list[int], list[int], int]:
        """Return what the packing operators take behind weight and bias."""
        return list(self.stride), list(self.padding), list(self.dilation), self.groups


class QuantizedLayer(nn.Module):
    """One quantized operator, its packed weight and bias, and the grid of its output.

    Args:
        operator: ``torch.ops.quantized.linear`` or a convolution.
        packed: what the packing operator returned.
        scale: real value of one step of the output.
        zero_point: integer of the real value 0 of the output.
    """

    def __init__(
        self, operator: Callable[..., Tensor], packed: Any, scale: float, zero_point: int
    ) -> None:
        super().__init__()
        self.operator = operator
        self.packed = packed
        self.scale = scale
        self.zero_point = zero_point

    def forward(self, x: Tensor) -> Tensor:
        """Return the output, a quantized tensor, of ``x``, another one."""
        return self.operator(x, self.packed, self.scale, self.zero_point)


def quantized_weight(weight: Integers) -> Tensor:
    """Make the quantized tensor that the packing operators take, ``torch.qint8``.

    Args:
        weight: constant 8-bit integers.

    Returns:
        Quantized tensor of the same integers, moved to around zero where they were unsigned.
    """
    weight = _signed(weight)
    assert weight.data is not None
    scale, zero_point = weight.scale, weight.zero_point.to(torch.int32)
    if weight.axis is None:
        real = (weight.data.to(torch.int32) - zero_point) * scale
        return torch.quantize_per_tensor(real, float(scale), int(zero_point), torch.qint8)
    shape = [1] * weight.data.dim()
    shape[weight.axis] = -1
    real = (weight.data.to(torch.int32) - zero_point.reshape(shape)) * scale.reshape(shape)
    return torch.quantize_per_channel(real, scale, zero_point, weight.axis, torch.qint8)


def _signed(weight: Integers) -> Integers:
    """Move unsigned integers to int8 with the smallest magnitudes: 7 bits stay 7 bits."""
    data, zero_point = weight.data, weight.zero_point.to(torch.int16)
    if weight.dtype == torch.int8 or data is None:
        return weight
    step = -((int(data.min()) + int(data.max()) + 1) // 2)
    if bool((zero_point + step < -128).any()) or bool((zero_point + step > 127).any()):
        step = -128
    return weight.moved_by(step, torch.int8)


def quantized_layer(
    weight: Integers, bias: Tensor | None, geometry: Geometry | None, output: Integers
) -> QuantizedLayer:
    """Pack the weight of a layer.

    Args:
        weight: constant integers, ``[out, in]`` or ``[out, in / groups, ...]``.
        bias: real values ``[out]``, or None; the operator rounds them to its accumulator.
        geometry: how a kernel moves, None for a matrix.
        output: grid of the output, on uint8.

    Returns:
        The module that computes the layer.
    """
    packed_weight = quantized_weight(weight)
    pack, operator = _OPERATORS[packed_weight.dim()]
    packed = pack(packed_weight, bias, *(geometry.arguments() if geometry else ()))
    return QuantizedLayer(operator, packed, float(output.scale), int(output.zero_point))


def may_overflow(source: Integers, weight: Integers) -> bool:
    """Whether two products can exceed 16 bits, which some CPUs add them in.

    Args:
        source: input of the layer, on uint8.
        weight: its weight.

    Returns:
        True for full 8-bit ranges; False for weights of 7 bits, or inputs of 7.
    """
    data = _signed(weight).data
    assert data is not None
    largest = int(data.to(torch.int16).abs().max()) if data.numel() else 0
    return 2 * source.high * largest > _INT16_MAX
