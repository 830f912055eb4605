"""The standard ONNX operators that quantize, each defined once. Layer: export (L8).

Specification: https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from brevitas.export.common.session import ExportSession, emit, writes_nodes
from brevitas.export.common.spec import ExportError

__all__ = [
    "AXIS_OPSET",
    "INT16_OPSET",
    "MOVING",
    "Grid",
    "clip",
    "dequantize_linear",
    "quantize_linear",
]

# First versions of the standard operators with a scale per channel, and with 16-bit integers.
AXIS_OPSET = 13
INT16_OPSET = 21


# Operators that move values without changing them, or keep the largest: they act on the integers
# as they do on the real values.
MOVING = (
    "Expand",
    "Flatten",
    "Gather",
    "GatherND",
    "Identity",
    "MaxPool",
    "Pad",
    "Reshape",
    "Resize",
    "Slice",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
)


@dataclass(frozen=True, eq=False)
class Grid:
    """The stored numbers of a quantized tensor, and the real values they stand for.

    Args:
        scale: real value of one step, 0-d, or 1-d with one entry per channel.
        zero_point: stored number of the real value 0, shaped as ``scale``; its dtype is that of
            the stored numbers.
        axis: dimension of the channels counted from the last one (-1), None for a 0-d scale.
        name: dotted name of the proxy.
    """

    scale: Tensor
    zero_point: Tensor
    axis: int | None
    name: str

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Shape ``scale`` or ``zero_point`` so that it lines up with the channels."""
        if self.axis is None:
            return tensor
        return tensor.reshape(-1, *([1] * (-1 - self.axis)))

    def parameters(self) -> dict[str, Tensor]:
        """Return what nodes on this grid read beside the data."""
        return {"scale": self.scale, "zero_point": self.zero_point}

    def attributes(self, x: Tensor) -> dict[str, int]:
        """Return the attributes of a node on this grid for data shaped as ``x``."""
        return {} if self.axis is None else {"axis": x.dim() + self.axis}


def _bounds(dtype: torch.dtype) -> tuple[float, float]:
    info = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
    return float(info.min), float(info.max)


def quantize_linear(x: Tensor, grid: Grid, session: ExportSession | None = None) -> Tensor:
    """Store real values: ``saturate(round(x / scale) + zero_point)``, half to even.

    Args:
        x: any float tensor.
        grid: the stored numbers.
        session: the export under way.

    Returns:
        Tensor of the shape of ``x`` in the dtype of ``grid.zero_point``.

    Raises:
        ExportError: where a node would read real values in float64.

    Example:
        >>> grid = Grid(torch.tensor(0.5), torch.tensor(3, dtype=torch.uint8), None, "")
        >>> quantize_linear(torch.tensor([1.0, -9.0]), grid)
        tensor([5, 0], dtype=torch.uint8)
    """
    dtype = grid.zero_point.dtype
    if not writes_nodes(session):
        scaled = x / grid.broadcast(grid.scale)
        if dtype.is_floating_point:
            return torch.clamp(scaled, *_bounds(dtype)).to(dtype)
        integers = torch.round(scaled) + grid.broadcast(grid.zero_point).to(x.dtype)
        return torch.clamp(integers, *_bounds(dtype)).to(dtype)
    if x.dtype == torch.float64:
        raise ExportError(
            "dtype=torch.float64: QuantizeLinear reads real values of at most 32 bits; call "
            f"model.float() first, and pass an example input in float32. Layer: {grid.name}"
        )
    return emit(
        "QuantizeLinear",
        {"": x, **grid.parameters()},
        grid.attributes(x),
        x,
        dtype,
        proxy=grid.name,
        session=session,
    )


def clip(
    x: Tensor, minimum: Tensor, maximum: Tensor, name: str, session: ExportSession | None = None
) -> Tensor:
    """Clamp stored integers, for widths and ranges short of those of their dtype.

    Args:
        x: integers.
        minimum: smallest integer to keep, 0-d, in the dtype of ``x``.
        maximum: largest integer to keep, 0-d, in the dtype of ``x``.
        name: dotted name of the proxy.
        session: the export under way.

    Returns:
        Tensor of the shape and dtype of ``x``.

    Example:
        >>> low, high = torch.tensor([-7, 7], dtype=torch.int8)
        >>> clip(torch.tensor([9, -3], dtype=torch.int8), low, high, "")
        tensor([ 7, -3], dtype=torch.int8)
    """
    if not writes_nodes(session):
        limits = (minimum.to(torch.int64), maximum.to(torch.int64))
        return torch.clamp(x.to(torch.int64), *limits).to(x.dtype)
    inputs = {"": x, "minimum": minimum, "maximum": maximum}
    return emit("Clip", inputs, {}, x, x.dtype, proxy=name, session=session)


def dequantize_linear(x: Tensor, grid: Grid, session: ExportSession | None = None) -> Tensor:
    """Return the real values of stored numbers: ``(x - zero_point) * scale``.

    Args:
        x: numbers in the dtype of ``grid.zero_point``.
        grid: the stored numbers.
        session: the export under way.

    Returns:
        Tensor of the shape of ``x`` in the dtype of ``grid.scale``, float32.

    Example:
        >>> grid = Grid(torch.tensor(0.5), torch.tensor(3, dtype=torch.uint8), None, "")
        >>> dequantize_linear(torch.tensor([5], dtype=torch.uint8), grid)
        tensor([1.])
    """
    if not writes_nodes(session):
        centered = x.to(torch.float32) - grid.broadcast(grid.zero_point).to(torch.float32)
        return centered * grid.broadcast(grid.scale)
    return emit(
        "DequantizeLinear",
        {"": x, **grid.parameters()},
        grid.attributes(x),
        x,
        grid.scale.dtype,
        proxy=grid.name,
        session=session,
    )
