"""Brings a statistic into the shape that a scale needs.

Layer: core (L3).
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn

from brevitas.core.utils import inplace_momentum_update, inplace_tensor_mul
from brevitas.quant_tensor._compare import is_script_traced

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
        """Return the statistic of `x`, of shape `stats_output_shape`; integers are real values."""
        x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
        statistic, shape = self.stats_impl(x), self.stats_output_shape
        # TorchScript's tracer takes sizes for data.
        known = -1 not in shape and not is_script_traced()
        if known and statistic.numel() != prod(shape):
            raise ValueError(
                f"statistic of shape {tuple(statistic.shape)} for a scale of shape {shape}: "
                f"expected {prod(shape)} numbers, one for each channel; check the number of "
                "channels of the input, per_channel_broadcastable_shape and "
                "scaling_stats_permute_dims."
            )
        return statistic.view(shape)
