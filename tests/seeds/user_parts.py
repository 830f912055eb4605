"""Parts of a quantizer as a user writes them, to be put beside those of the library."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class LearnedRange(nn.Module):
    """A scale of a user's own: the largest representable value is learned directly.

    Args:
        range_init: Where the range starts.
    """

    def __init__(self, range_init: float) -> None:
        super().__init__()
        self.range = nn.Parameter(torch.tensor(float(range_init)))

    def forward(self, x: Tensor, threshold: Tensor) -> Tensor:
        return self.range.abs() / threshold


def fit(part: LearnedRange, quantize: Callable[[Tensor], Tensor], x: Tensor) -> tuple[float, float]:
    """Train the range to represent `x`; return the mean squared error before and after."""
    optimizer = torch.optim.Adam(part.parameters(), lr=part.range.item() / 50)
    errors = []
    for _ in range(100):
        error = (quantize(x) - x).square().mean()
        errors.append(error.item())
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    return errors[0], errors[-1]
