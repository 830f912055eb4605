"""The integers of a tensor in a graph, and how they move between int8 and uint8.

Layer: export (L8).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["EIGHT_BITS", "Integers", "accumulator_bias"]

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

    def moved_to(self, dtype: torch.dtype) -> Integers:
        """Return the same real values on integers of the other 8-bit dtype, 128 apart."""
        if dtype == self.dtype:
            return self
        step = torch.iinfo(dtype).min - torch.iinfo(self.dtype).min
        zero_point = (self.zero_point.to(torch.int16) + step).to(dtype)
        data = None if self.data is None else (self.data.to(torch.int16) + step).to(dtype)
        return replace(
            self,
            zero_point=zero_point,
            low=self.low + step,
            high=self.high + step,
            shift=self.shift + step,
            data=data,
        )

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

    def transposed(self) -> Integers:
        """Return a constant matrix with its two dimensions exchanged."""
        assert self.data is not None and self.data.dim() == 2
        axis = None if self.axis is None else 1 - self.axis % 2
        return replace(self, data=self.data.t().contiguous(), axis=axis)


def accumulator_bias(bias: Integers | Tensor, accumulator_scale: Tensor) -> Tensor | None:
    """Round a bias to whole steps of the accumulator, ``input scale * weight scale``.

    Args:
        bias: constant integers, or real values, ``[out]``.
        accumulator_scale: real value of one step, 0-d or ``[out]``.

    Returns:
        int32 tensor ``[out]``, or None where a value does not fit.

    Example:
        >>> accumulator_bias(torch.tensor([0.26, -1.0]), torch.tensor(0.125))
        tensor([ 2, -8], dtype=torch.int32)
    """
    if isinstance(bias, Integers):
        assert bias.data is not None
        centered = bias.data.to(torch.float64) - bias.zero_point.to(torch.float64)
        real = centered * bias.scale.to(torch.float64)
    else:
        real = bias.to(torch.float64)
    steps = torch.round(real.reshape(-1) / accumulator_scale.to(torch.float64))
    limits = torch.iinfo(torch.int32)
    fits = bool(((steps >= limits.min) & (steps <= limits.max)).all())
    return steps.to(torch.int32) if fits else None
