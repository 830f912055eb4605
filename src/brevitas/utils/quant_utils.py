"""What a proxy remembers of a quantized tensor. Layer: utils (L0)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["_CachedIO"]


class _CachedIO:
    """A quantized tensor kept for later, with or without its values.

    Args:
        quant_tensor: the integer quant tensor to keep, detached.
        metadata_only: keep scale, zero point and bit width but not the values.
    """

    def __init__(self, quant_tensor: Any, metadata_only: bool) -> None:
        self.shape: torch.Size = quant_tensor.value.shape
        self.metadata_only = metadata_only
        detached = quant_tensor.detach()
        self.quant_tensor = detached.set(value=None) if metadata_only else detached

    @property
    def scale(self) -> Tensor:
        """Real value of one integer step."""
        return self.quant_tensor.scale

    @property
    def zero_point(self) -> Tensor:
        """Integer that stands for zero."""
        return self.quant_tensor.zero_point

    @property
    def bit_width(self) -> Tensor:
        """Bits of the integers."""
        return self.quant_tensor.bit_width

    @property
    def signed(self) -> bool:
        """True for signed integers."""
        return self.quant_tensor.signed

    @property
    def training(self) -> bool:
        """True when the tensor was made in training."""
        return self.quant_tensor.training
