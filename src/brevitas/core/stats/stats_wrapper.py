"""Brings a statistic into the shape that a scale needs, and averages it over steps.

Layer: core (L3).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from brevitas.core._state import LearnedValueModule
from brevitas.core.utils import inplace_momentum_update, inplace_tensor_mul

__all__ = [
    "DEFAULT_MOMENTUM",
    "SCALAR_SHAPE",
    "inplace_momentum_update",
    "inplace_tensor_mul",
]

SCALAR_SHAPE: tuple[int, ...] = ()
DEFAULT_MOMENTUM = 0.1


class _Stats(nn.Module):
    """Compute a statistic and view it in a given shape."""

    def __init__(
        self, stats_impl: nn.Module, stats_output_shape: tuple[int, ...] = SCALAR_SHAPE
    ) -> None:
        super().__init__()
        self.stats_output_shape = tuple(stats_output_shape)
        self.stats_impl = stats_impl

    def forward(self, x: Tensor) -> Tensor:
        """Return the statistic of `x`, of shape `stats_output_shape`."""
        return self.stats_impl(x).view(self.stats_output_shape)


class _RuntimeStats(LearnedValueModule):
    """Statistic of the current input in training, its running average in evaluation."""

    optional_keys = ("running_stats",)
    running_stats: Tensor

    def __init__(
        self,
        stats_impl: nn.Module,
        stats_output_shape: tuple[int, ...],
        stats_input_view_shape_impl: nn.Module,
        stats_buffer_momentum: float | None = DEFAULT_MOMENTUM,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.stats_input_view_shape_impl = stats_input_view_shape_impl
        self.stats = _Stats(stats_impl, stats_output_shape)
        self.momentum = stats_buffer_momentum
        self.counter = 0
        initial = torch.ones(tuple(stats_output_shape), dtype=dtype, device=device)
        self.register_buffer("running_stats", initial)

    def forward(self, x: Tensor) -> Tensor:
        """Return the statistic, of shape `stats_output_shape`."""
        if not self.training:
            return self.running_stats
        statistic = self.stats(self.stats_input_view_shape_impl(x))
        new_counter = self.counter + 1
        with torch.no_grad():
            if self.counter == 0:
                inplace_tensor_mul(self.running_stats, statistic.detach())
            else:
                inplace_momentum_update(
                    self.running_stats, statistic.detach(), self.momentum, self.counter, new_counter
                )
        self.counter = new_counter
        return statistic
