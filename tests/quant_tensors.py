"""Quantized tensors with known integers, for tests."""

from __future__ import annotations

import torch
from torch import Tensor

from brevitas.quant_tensor import IntQuantTensor


def make(
    shape,
    scale: float | Tensor = 0.05,
    zero_point: float | Tensor = 0.0,
    bit_width: float = 8,
    signed: bool = True,
    training: bool = False,
    seed: int = 0,
    narrow: bool = False,
) -> tuple[IntQuantTensor, Tensor]:
    """A tensor of random integers, and those integers in float64."""
    generator = torch.Generator().manual_seed(seed)
    low = -(2 ** (bit_width - 1)) + narrow if signed else 0
    high = 2 ** (bit_width - 1) - 1 if signed else 2**bit_width - 1
    integers = torch.randint(int(low), int(high) + 1, shape, generator=generator)
    value = ((integers.double() - zero_point) * scale).float()
    x = IntQuantTensor(value, scale, zero_point, bit_width, signed, training)
    return x, integers.double()
