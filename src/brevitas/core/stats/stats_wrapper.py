"""Brings a statistic into the shape that a scale needs.

Layer: core (L3).
"""

from __future__ import annotations

from torch import Tensor, nn

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
