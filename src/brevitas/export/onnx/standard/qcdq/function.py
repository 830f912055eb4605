"""Quantize, clip, dequantize: any integer up to 8 (or 16) bits in standard ONNX operators.

Layer: export (L8).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from brevitas.export.common.rounding import ROUNDING, rounding_remedy
from brevitas.export.common.session import ExportSession
from brevitas.export.common.spec import ExportError, QuantSpec
from brevitas.export.onnx.standard.function import (
    AXIS_OPSET,
    INT16_OPSET,
    Grid,
    clip,
    dequantize_linear,
    quantize_linear,
)
from brevitas.utils.torch_utils import widened

__all__ = ["Storage", "cdq", "qcdq", "store", "store_constant"]

# The dequantized values of these are clipped in place of the integers, to the same real values.
# ONNX Runtime has no Clip for 16-bit integers. A DequantizeLinear of a 32-bit weight it would merge
# with the layer behind it into an operator that has no such weights; the Clip between them keeps
# the two apart, which is why those are always clipped.
_UNCLIPPED = (torch.int16, torch.uint16, torch.int32)

_REMEDY = "use export_qonnx, whose Quant node holds any width"


@dataclass(frozen=True, eq=False)
class Storage:
    """How the integers of a spec lie in a file.

    Args:
        spec: the quantizer.
        grid: stored numbers and their scale.
        minimum: smallest stored integer where that is not the smallest of the dtype.
        maximum: largest stored integer, given together with ``minimum``.
        limits: real values of the two, broadcastable to the data.
    """

    spec: QuantSpec
    grid: Grid
    minimum: Tensor | None
    maximum: Tensor | None
    limits: tuple[Tensor, Tensor] | None = None

    def shared(self, session: ExportSession) -> Storage:
        """Return the same storage over tensors that the whole export shares."""
        grid = replace(
            self.grid,
            scale=session.shared(self.grid.scale),
            zero_point=session.shared(self.grid.zero_point),
        )
        if self.minimum is None or self.maximum is None:
            return replace(self, grid=grid)
        minimum, maximum = session.shared(self.minimum), session.shared(self.maximum)
        return replace(self, grid=grid, minimum=minimum, maximum=maximum)


def _channels(spec: QuantSpec, opset: int) -> tuple[Tensor, Tensor, int | None]:
    """Flatten scale and zero point to 0-d or 1-d, and find the dimension they vary in."""
    shape = torch.broadcast_shapes(spec.scale.shape, spec.zero_point.shape)
    wide = [index for index, size in enumerate(shape) if size > 1]
    if not wide:
        return spec.scale.reshape(()), spec.zero_point.reshape(()), None
    if len(wide) > 1:
        raise ExportError(
            f"scale of shape {tuple(shape)}: QCDQ holds one scale per tensor or per channel; "
            f"{_REMEDY}. Layer: {spec.name}"
        )
    if opset < AXIS_OPSET:
        raise ExportError(
            f"opset_version={opset}: a scale per channel needs {AXIS_OPSET}. Layer: {spec.name}"
        )
    scale = spec.scale.expand(shape).reshape(-1)
    zero_point = spec.zero_point.expand(shape).reshape(-1)
    return scale, zero_point, wide[0] - len(shape)


def _grid(spec: QuantSpec, dtype: torch.dtype, opset: int) -> Grid:
    scale, zero_point, axis = _channels(spec, opset)
    limits = torch.iinfo(dtype)
    whole = torch.round(zero_point)
    if not torch.equal(whole, zero_point) or whole.min() < limits.min or whole.max() > limits.max:
        raise ExportError(
            f"zero_point: expected whole numbers from {limits.min} to {limits.max}; {_REMEDY}. "
            f"Layer: {spec.name}"
        )
    return Grid(scale.clone(), whole.to(dtype), axis, spec.name)


def _with_limits(spec: QuantSpec, grid: Grid) -> Storage:
    dtype = grid.zero_point.dtype
    limits = torch.iinfo(dtype)
    if dtype != torch.int32 and spec.minimum == limits.min and spec.maximum == limits.max:
        return Storage(spec, grid, None, None)
    device = grid.scale.device
    minimum = torch.tensor(spec.minimum, dtype=dtype, device=device)
    maximum = torch.tensor(spec.maximum, dtype=dtype, device=device)
    low = (spec.minimum - spec.zero_point) * spec.scale
    high = (spec.maximum - spec.zero_point) * spec.scale
    return Storage(spec, grid, minimum, maximum, (low, high))


def store(spec: QuantSpec, opset: int) -> Storage:
    """Plan a tensor whose integers the graph computes: an activation, or a float weight.

    Args:
        spec: the quantizer.
        opset: version of the standard operators.

    Returns:
        8-bit storage, or 16-bit storage from opset 21 on.

    Raises:
        ExportError: on a width, rounding, scale or zero point that QuantizeLinear cannot hold.
    """
    if spec.is_binary:
        raise ExportError(
            "bit_width=1: QuantizeLinear cannot leave out the zero between -1 and 1; use "
            f"export_qonnx, which writes a BipolarQuant node. Layer: {spec.name}"
        )
    if spec.rounding_mode.upper() != "ROUND":
        in_qonnx = spec.rounding_mode.upper() in ROUNDING
        remedy = rounding_remedy(spec.rounding_mode, "set float_to_int_impl_type to ROUND")
        raise ExportError(
            f"rounding_mode={spec.rounding_mode!r}: QuantizeLinear rounds to nearest, half to "
            f"even; {remedy}"
            f"{', or use export_qonnx, which can state it' if in_qonnx else ''}. "
            f"Layer: {spec.name}"
        )
    if spec.bits > 8 and opset < INT16_OPSET:
        raise ExportError(
            f"bit_width={spec.bits}: QuantizeLinear holds 8 bits up to opset {INT16_OPSET - 1}; "
            f"pass opset_version={INT16_OPSET} for up to 16 bits, or {_REMEDY}. Layer: {spec.name}"
        )
    if spec.bits > 16:
        raise ExportError(
            f"bit_width={spec.bits}: QuantizeLinear holds at most 16 bits; {_REMEDY}. "
            f"Layer: {spec.name}"
        )
    small = torch.int8 if spec.signed else torch.uint8
    large = torch.int16 if spec.signed else torch.uint16
    return _with_limits(spec, _grid(spec, small if spec.bits <= 8 else large, opset))


def store_constant(spec: QuantSpec, opset: int, *, is_bias: bool = False) -> Storage:
    """Plan a tensor whose integers the file holds: a weight or a bias.

    Args:
        spec: the quantizer.
        opset: version of the standard operators.
        is_bias: whether it is a bias, which runtimes expect as 32-bit integers, never clipped.

    Returns:
        Storage of 8 bits for weights up to 8 bits, of 32 bits otherwise.

    Raises:
        ExportError: on more than 32 bits, or a zero point with 32-bit storage.
    """
    if spec.bits > 32 - (not spec.signed):
        raise ExportError(
            f"bit_width={spec.bits}: DequantizeLinear holds at most 32 bits with a sign; {_REMEDY}."
            f" Layer: {spec.name}"
        )
    if spec.bits <= 8 and not is_bias:
        dtype = torch.int8 if spec.signed else torch.uint8
        return _with_limits(spec, _grid(spec, dtype, opset))
    if bool((spec.zero_point != 0).any()):
        raise ExportError(
            f"zero_point: 32-bit integers have none in DequantizeLinear; {_REMEDY}. "
            f"Layer: {spec.name}"
        )
    grid = _grid(spec, torch.int32, opset)
    return Storage(spec, grid, None, None) if is_bias else _with_limits(spec, grid)


def qcdq(x: Tensor, storage: Storage, session: ExportSession | None = None) -> Tensor:
    """Quantize to integers, clip to the width, dequantize.

    Args:
        x: any float tensor.
        storage: from ``store``.
        session: the export under way.

    Returns:
        Tensor of the shape and dtype of ``x``.

    Example:
        >>> storage = store(QuantSpec(0.5, 0.0, 4, True, False), opset=18)
        >>> qcdq(torch.tensor([0.6, 9.0]), storage)
        tensor([0.5000, 3.5000])
    """
    return cdq(quantize_linear(widened(x), storage.grid, session), storage, x.dtype, session)


def cdq(
    integers: Tensor, storage: Storage, dtype: torch.dtype, session: ExportSession | None = None
) -> Tensor:
    """Clip stored integers to the width, which tells readers that width, and dequantize.

    Args:
        integers: numbers in the dtype of the storage.
        storage: from ``store`` or ``store_constant``.
        dtype: float type of the output.
        session: the export under way.

    Returns:
        Tensor of the shape of ``integers``.
    """
    grid, name = storage.grid, storage.spec.name
    if storage.minimum is None or storage.maximum is None:
        return dequantize_linear(integers, grid, session).to(dtype)
    if integers.dtype in _UNCLIPPED and storage.limits is not None:
        low, high = storage.limits
        return torch.clamp(dequantize_linear(integers, grid, session), low, high).to(dtype)
    integers = clip(integers, storage.minimum, storage.maximum, name, session)
    return dequantize_linear(integers, grid, session).to(dtype)
