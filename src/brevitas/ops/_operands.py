"""What a fake quantization works on: its plan, its operands, its roundings. Layer: ops (L1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from brevitas.function.ops import dpu_round

__all__ = ["ROUNDING_MODES", "Bound", "FakeQuantPlan", "Operands", "clamp_by_tensors"]

#: Rounding mode -> function on real values; the names are those of the QONNX specification.
ROUNDING_MODES: dict[str, Callable[[Tensor], Tensor]] = {
    "ROUND": torch.round,
    "CEIL": torch.ceil,
    "FLOOR": torch.floor,
    "ROUND_TO_ZERO": torch.trunc,
    "DPU": dpu_round,
}
Bound = Tensor | float


@dataclass(frozen=True)
class FakeQuantPlan:
    """How one quantizer rounds and clamps: all that the fused operation needs besides tensors.

    Args:
        rounding: one of ``ROUNDING_MODES``.
        clamp_passes_gradient: True where clamped elements still pass their gradient to ``x``
            (straight-through clamp), False where they pass it to the bound instead.
        rectifies: True where ``max(x, 0)`` is quantized, an activation function that the operation
            includes: values up to zero become zero and pass no gradient. Needs a smallest integer
            and a zero point of zero.
    """

    rounding: str = "ROUND"
    clamp_passes_gradient: bool = False
    rectifies: bool = False


def clamp_by_tensors(integer: Tensor, lower: Bound, upper: Bound) -> Tensor:
    """Clamp to limits of which one at least is a tensor."""
    lower, upper = (torch.as_tensor(bound).to(integer) for bound in (lower, upper))
    return torch.clamp(integer, lower, upper)


class Operands(NamedTuple):
    """The tensors and limits of one call, in the order of the operation's arguments."""

    x: Tensor
    scale: Tensor
    zero_point: Tensor | None
    lower: Bound
    upper: Bound
    output_scale: Tensor | None = None
    output_zero_point: Tensor | None = None

    def clamp(self, integer: Tensor) -> Tensor:
        """Clamp integers to the limits, without writing to them."""
        if isinstance(self.lower, Tensor) or isinstance(self.upper, Tensor):
            return clamp_by_tensors(integer, self.lower, self.upper)
        return integer.clamp(self.lower, self.upper)
