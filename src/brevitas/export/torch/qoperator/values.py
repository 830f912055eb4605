"""Values of a model that runs on quantized tensors. Layer: export (L8)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from brevitas.export.common.integers import Integers, needs_output

__all__ = ["Quantized", "Waiting"]


@dataclass(frozen=True, eq=False)
class Quantized:
    """A value that is there as a quantized tensor, or as the integers of a constant.

    Args:
        grid: integers of the value; those of an activation are on uint8.
        tensor: quantized tensor, None for a constant.
        real: the real values once something has read them.
    """

    grid: Integers
    tensor: Tensor | None = None
    real: list[Tensor] = field(default_factory=list)

    def dequantized(self) -> Tensor:
        """Return the real values."""
        if not self.real:
            tensor = self.tensor
            self.real.append(self.grid.real() if tensor is None else tensor.dequantize())
        return self.real[0]

    def limited(self, low: float, high: float) -> Quantized:
        """Clamp to integers from ``low`` to ``high``, where they are inside of the range."""
        grid = self.grid
        low = int(min(max(low, grid.low), grid.high))
        high = int(min(max(high, grid.low), grid.high))
        if (low, high) == (grid.low, grid.high) or self.tensor is None:
            return self
        bounds = [(i - int(grid.zero_point)) * float(grid.scale) for i in (low, high)]
        return Quantized(replace(grid, low=low, high=high), torch.clamp(self.tensor, *bounds))


@dataclass(frozen=True, eq=False)
class Waiting:
    """A value that is computed once the quantizer behind it is known.

    Args:
        layer: dotted name of the layer, for messages.
        compute: from the grid of the output to the quantized output.
        fallback: computes real values; None where it has to be an operator on integers.
        low: smallest real value behind the layer.
        high: largest real value behind the layer.
        tail: what moves the values behind the layer.
        is_padded: whether one of these puts zeros around the values.
    """

    layer: str
    compute: Callable[[Integers], Tensor]
    fallback: Callable[[], Tensor] | None = None
    low: float = -math.inf
    high: float = math.inf
    tail: tuple[Callable[[Tensor], Tensor], ...] = ()
    is_padded: bool = False

    def limited(self, low: float, high: float) -> Waiting:
        """Return the same with a clamp behind it."""
        low, high = (min(max(limit, low), high) for limit in (self.low, self.high))
        return replace(self, low=low, high=high)

    def followed_by(self, function: Callable[[Tensor], Tensor], pads: bool = False) -> Waiting:
        """Return the same with something behind it that moves values, or puts zeros around."""
        return replace(self, tail=(*self.tail, function), is_padded=self.is_padded or pads)

    def quantized(self, grid: Integers) -> Quantized:
        """Compute the value on the integers of its quantizer."""
        low, high = (grid.integer_of(limit) for limit in (self.low, self.high))
        value = Quantized(grid, self.compute(grid)).limited(low, high)
        assert value.tensor is not None
        tensor = value.tensor
        for function in self.tail:
            tensor = function(tensor)
        return Quantized(value.grid.padded() if self.is_padded else value.grid, tensor)

    def real(self, reader: str) -> Tensor:
        """Compute the real values, or raise ExportError where they are not to be."""
        if self.fallback is None:
            raise needs_output(self.layer, reader, "export_torch_qcdq")
        value = self.fallback()
        if (self.low, self.high) != (-math.inf, math.inf):
            value = torch.clamp(value, self.low, self.high)
        for function in self.tail:
            value = function(value)
        return value
