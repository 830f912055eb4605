"""The integers of a tensor in a graph, and how they move between int8 and uint8.

Layer: export (L8).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from brevitas.export.common.spec import ExportError

__all__ = ["EIGHT_BITS", "Integers", "accumulator_bias", "needs_input", "needs_output"]

EIGHT_BITS = (torch.int8, torch.uint8)


@dataclass(frozen=True, eq=False)
class Integers:
    """A tensor of integers and its grid: ``real = (integers - zero_point) * scale``.

    Invariants: ``scale`` is float32; ``zero_point`` has the dtype of the integers; both are 0-d,
    or 1-d with one entry per index of dimension ``axis``.

    Args:
        name: tensor in the graph.
        scale: real value of one step.
        zero_point: integer of the real value 0.
        axis: dimension that the scale varies in, None for a 0-d scale.
        proxy: dotted name of the quantizer that the grid stems from.
        low: smallest integer that occurs.
        high: largest integer that occurs.
        shift: what was added to the integers to move them to another dtype.
        data: the integers where they are a constant.

    Example:
        >>> zero_point = torch.tensor(0, dtype=torch.int8)
        >>> weight = Integers("w", torch.tensor(0.5), zero_point, None, "fc.weight_quant")
        >>> moved = weight.moved_to(torch.uint8)
        >>> moved.zero_point, moved.low, moved.high
        (tensor(128, dtype=torch.uint8), 0, 255)
    """

    name: str
    scale: Tensor
    zero_point: Tensor
    axis: int | None
    proxy: str
    low: int = -128
    high: int = 127
    shift: int = 0
    data: Tensor | None = None

    @classmethod
    def full_range(
        cls,
        name: str,
        scale: Tensor,
        zero_point: Tensor,
        axis: int | None,
        proxy: str,
        data: Tensor | None = None,
    ) -> Integers:
        """Make one whose integers take every value of their dtype."""
        limits = torch.iinfo(zero_point.dtype)
        axis = axis if scale.dim() else None
        return cls(name, scale, zero_point, axis, proxy, limits.min, limits.max, 0, data)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the integers."""
        return self.zero_point.dtype

    def layer(self, root: str) -> str:
        """Name the layer that the quantizer belongs to; ``root`` where that is the whole model."""
        return self.proxy.rpartition(".")[0] or root

    def moved_to(self, dtype: torch.dtype) -> Integers:
        """Return the same real values on integers of the other 8-bit dtype, 128 apart."""
        if dtype == self.dtype:
            return self
        return self.moved_by(torch.iinfo(dtype).min - torch.iinfo(self.dtype).min, dtype)

    def moved_by(self, step: int, dtype: torch.dtype) -> Integers:
        """Return the same real values on integers of another place in 8 bits."""
        data = None if self.data is None else (self.data.to(torch.int16) + step).to(dtype)
        return replace(
            self,
            zero_point=(self.zero_point.to(torch.int16) + step).to(dtype),
            low=self.low + step,
            high=self.high + step,
            shift=self.shift + step,
            data=data,
        )

    def padded(self) -> Integers:
        """Return the same with the integer of 0 among those that occur: zeros come around them."""
        zero = int(self.zero_point)
        return replace(self, low=min(self.low, zero), high=max(self.high, zero))

    def has_grid_of(self, other: Integers) -> bool:
        """Whether a real value has the same place in the range of both, whatever the dtype."""
        if self.dtype not in EIGHT_BITS or other.dtype not in EIGHT_BITS:
            return False
        moved = other.moved_to(self.dtype)
        return (
            self.axis == other.axis
            and torch.equal(self.scale, other.scale)
            and torch.equal(self.zero_point, moved.zero_point)
        )

    def integer_of(self, real: float) -> int:
        """Integer that a real value has, clamped to the range; for a 0-d scale."""
        steps = round(real / float(self.scale)) if abs(real) < float("inf") else real
        return int(min(max(steps + int(self.zero_point), self.low), self.high))

    def exact_integer_of(self, real: float) -> int | None:
        """Integer of a limit, clamped to the range; None for a limit between two integers."""
        if self.axis is not None:
            return None
        integer = self.integer_of(real)
        value = (integer - int(self.zero_point)) * float(self.scale)
        beyond = real > value if integer == self.high else real < value
        is_end = integer in (self.low, self.high) and beyond
        return integer if is_end or math.isclose(real, value, rel_tol=1e-6) else None

    def real(self) -> Tensor:
        """Real values of a constant."""
        assert self.data is not None
        shape = [1] * self.data.dim()
        if self.axis is not None:
            shape[self.axis] = -1
        centered = self.data.to(torch.float64) - self.zero_point.to(torch.float64).reshape(shape)
        return (centered * self.scale.reshape(shape)).to(torch.float32)

    def transposed(self) -> Integers:
        """Return a constant matrix with its two dimensions exchanged."""
        assert self.data is not None and self.data.dim() == 2
        axis = None if self.axis is None else 1 - self.axis % 2
        return replace(self, data=self.data.t().contiguous(), axis=axis)


def accumulator_bias(
    bias: Integers | Tensor, accumulator_scale: Tensor, output_scale: Tensor, layer: str
) -> Tensor:
    """Round a bias to whole steps of the accumulator, ``input scale * weight scale``.

    Args:
        bias: constant integers, or real values, ``[out]``.
        accumulator_scale: real value of one step, 0-d or ``[out]``.
        output_scale: real value of one step of the output, 0-d.
        layer: dotted name of the layer.

    Returns:
        int32 tensor ``[out]``.

    Raises:
        ExportError: where a value does not fit, or rounding it moves the output by more than half
            a step.

    Example:
        >>> bias, scale = torch.tensor([0.26, -1.0]), torch.tensor(0.125)
        >>> accumulator_bias(bias, scale, scale, "fc")
        tensor([ 2, -8], dtype=torch.int32)
    """
    real = (bias.real() if isinstance(bias, Integers) else bias).to(torch.float64).reshape(-1)
    scale = accumulator_scale.to(torch.float64)
    steps = torch.round(real / scale)
    limits = torch.iinfo(torch.int32)
    if bool(((steps < limits.min) | (steps > limits.max)).any()):
        raise ExportError(
            "bias: a value exceeds 32 bits in steps of input scale * weight scale; the weight of "
            f"its channel is close to zero, use a QCDQ export. Layer: {layer}"
        )
    off = (steps * scale - real).abs() / output_scale.to(torch.float64)
    # Beyond half a step, with what rounding the output adds, results differ by more than one.
    if bool((off > 0.5).any()):
        raise ExportError(
            "bias: rounded to steps of input scale * weight scale it moves the output by "
            f"{float(off.max()):.2f} steps; pass bias_quant=Int32Bias, so that the model sees "
            f"this rounding too. Layer: {layer}"
        )
    return steps.to(torch.int32)


def needs_input(layer: str) -> ExportError:
    """Make the error about a layer whose input is in real values."""
    return ExportError(
        "the input is not quantized directly in front of the layer, which an integer operator "
        "needs; pass input_quant=Int8ActPerTensorFloat, or put a QuantIdentity in front of it, "
        f"behind sums and averages too. Layer: {layer}"
    )


def needs_output(layer: str, reader: str, other_export: str) -> ExportError:
    """Make the error about a layer whose output is read in real values.

    Args:
        layer: dotted name of the layer.
        reader: the operator that reads it, empty for the end of the model.
        other_export: name of the export that takes such layers.
    """
    where = f"is read by {reader}" if reader else "leaves the model"
    return ExportError(
        f"the output {where} before it is quantized, and an integer operator needs an output "
        "quantizer; pass output_quant=Int8ActPerTensorFloat, or put a QuantReLU or QuantIdentity "
        "directly behind the layer (merge a batch normalization into it first), or use "
        f"{other_export}. Layer: {layer}"
    )
