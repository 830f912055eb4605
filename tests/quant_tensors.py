"""Quantized tensors of all kinds with known integers or minifloats, for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from brevitas.quant_tensor import (
    FloatQuantTensor,
    GroupwiseFloatQuantTensor,
    GroupwiseIntQuantTensor,
    IntQuantTensor,
)


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


# Exponent bits, mantissa bits, exponent bias, codes for infinity and NaN.
FORMATS: dict[str, tuple[Any, ...]] = {
    "e4m3": (4, 3, 7, None, ("111",)),
    "e5m2": (5, 2, 15, ("00",), ("01", "10", "11")),
    "e4m3 fnuz": (4, 3, 8, None, None),
    "e2m1": (2, 1, 1, None, None),
    "e3m2": (3, 2, 3, None, None),
}


def numbers_of(name: str) -> Tensor:
    """All finite numbers of a format that are not negative, in order, in float64."""
    exponent_bits, mantissa_bits, bias, inf_values, nan_values = FORMATS[name]
    reserved = {int(code, 2) for code in (*(inf_values or ()), *(nan_values or ()))}
    found = []
    for exponent in range(2**exponent_bits):
        for mantissa in range(2**mantissa_bits):
            if exponent == 2**exponent_bits - 1 and mantissa in reserved:
                continue
            significand = (exponent > 0) + mantissa / 2**mantissa_bits
            found.append(significand * 2.0 ** (max(exponent, 1) - bias))
    return torch.tensor(found, dtype=torch.float64)


def random_minifloats(shape, name: str = "e4m3", seed: int = 0) -> Tensor:
    """Random numbers of a format, in float64."""
    generator = torch.Generator().manual_seed(seed)
    numbers = numbers_of(name)
    chosen = numbers[torch.randint(0, len(numbers), tuple(shape), generator=generator)]
    return torch.where(torch.rand(tuple(shape), generator=generator) < 0.5, -chosen, chosen)


def make_float(
    shape,
    scale: float | Tensor = 0.05,
    name: str = "e4m3",
    training: bool = False,
    seed: int = 0,
) -> tuple[FloatQuantTensor, Tensor]:
    """A tensor of random minifloats, and those minifloats in float64."""
    numbers = random_minifloats(shape, name, seed)
    value = (numbers * scale).float()
    exponent_bits, mantissa_bits, bias, inf_values, nan_values = FORMATS[name]
    x = FloatQuantTensor(
        value,
        scale,
        0.0,
        exponent_bits,
        mantissa_bits,
        bias,
        True,
        inf_values,
        nan_values,
        True,
        training,
    )
    return x, numbers


def make_groups(
    kind: type,
    shape,
    group_size: int = 4,
    group_dim: int = 1,
    training: bool = False,
    seed: int = 0,
) -> tuple[Any, Tensor]:
    """A tensor with random scales for its groups, and its integers or minifloats in float64."""
    is_float = kind is GroupwiseFloatQuantTensor
    numbers = random_minifloats(shape, seed=seed) if is_float else make(shape, seed=seed)[1]
    grouped = GroupwiseIntQuantTensor.from_expanded(numbers, group_size, group_dim)
    sizes = list(grouped.shape)
    sizes[group_dim % len(shape) + 1] = 1
    generator = torch.Generator().manual_seed(seed + 1)
    scale = torch.rand(sizes, generator=generator) + 0.1
    form = FORMATS["e4m3"]
    quantization = (*form[:3], True, *form[3:]) if is_float else (8,)
    fields = ((grouped * scale).float(), scale, 0.0, group_size, group_dim, *quantization)
    return kind(*fields, True, training, dequant_shape=torch.Size(shape)), numbers


# Builder of a tensor of each kind, with its integers or minifloats.
KINDS: dict[type, Callable[..., tuple[Any, Tensor]]] = {
    IntQuantTensor: make,
    FloatQuantTensor: make_float,
    GroupwiseIntQuantTensor: lambda *args, **kwargs: make_groups(
        GroupwiseIntQuantTensor, *args, **kwargs
    ),
    GroupwiseFloatQuantTensor: lambda *args, **kwargs: make_groups(
        GroupwiseFloatQuantTensor, *args, **kwargs
    ),
}


def numbers(x: Any) -> Tensor:
    """The integers or minifloats of a quantized tensor, in float64."""
    if isinstance(x, (FloatQuantTensor, GroupwiseFloatQuantTensor)):
        return x.minifloat().double()
    return x.int().double()
