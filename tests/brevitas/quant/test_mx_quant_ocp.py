"""Microscaling formats against integer formulas for scales and casts for elements."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import brevitas.nn as qnn
from brevitas.core.scaling import IntScaling
from brevitas.quant.mx_quant_ocp import (
    MXFloat8e4m3Act,
    MXFloat8e4m3Weight,
    MXInt8Act,
    MXInt8Weight,
)

numpy = pytest.importorskip("numpy")

# Exponent and mantissa bits -> exponent of the largest power of two, largest number, and the type
# of ml_dtypes whose casts are an independent implementation.
FORMATS = {
    (4, 3): (8, 448.0, "float8_e4m3fn"),
    (5, 2): (15, 57344.0, "float8_e5m2"),
    (3, 2): (4, 28.0, "float6_e3m2fn"),
    (2, 3): (2, 7.5, "float6_e2m3fn"),
    (2, 1): (2, 6.0, "float4_e2m1fn"),
}
every_format = pytest.mark.parametrize("bits", FORMATS, ids=lambda b: f"e{b[0]}m{b[1]}")
SMALLEST = 1e-10  # `scaling_min_val`


def blocks(count: int = 400, size: int = 32) -> Tensor:
    """Groups of magnitudes from 2**-30 to 2**30, whose largest is often at or beside a power."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, size, generator=generator)
    x *= 2.0 ** torch.randint(-30, 30, (count, 1), generator=generator)
    power = 2.0 ** torch.arange(-30, 30).float()
    below, above = (torch.nextafter(power, torch.tensor(to)) for to in (0.0, math.inf))
    edges = torch.stack([power, -power, below, -below, above, 1.5 * power]).flatten()[:, None]
    fractions = torch.rand(len(edges), size - 1, generator=generator) * 2 - 1
    return torch.cat([x, torch.cat([edges, fractions * edges.abs()], 1)])


def exact_scale(x: Tensor, exponent: int) -> Tensor:
    """``2**(floor(log2(max|x|)) - exponent)`` by integer arithmetic on exponents."""
    _, above = torch.frexp(x.abs().amax(-1, keepdim=True))
    return torch.ldexp(torch.ones(above.shape), above - 1 - exponent)


def quantize(quantizer: Any, x: Tensor, **declared: Any) -> Any:
    layer = qnn.QuantIdentity(quantizer, group_dim=-1, return_quant_tensor=True, **declared)
    return layer(x)


def minifloat(bits: tuple[int, int]) -> dict[str, Any]:
    return {"exponent_bit_width": bits[0], "mantissa_bit_width": bits[1]}


@every_format
def test_minifloats_are_casts_at_the_exact_scale(bits: tuple[int, int]) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    exponent, largest, name = FORMATS[bits]
    x = blocks()
    quantized = quantize(MXFloat8e4m3Act, x, **minifloat(bits))
    scale = exact_scale(x, exponent)
    assert torch.equal(quantized.scale_.squeeze(-1), scale)
    ratio = (x / scale).clamp(-largest, largest).numpy()
    cast = ratio.astype(getattr(ml_dtypes, name)).astype(numpy.float32)
    assert torch.equal(quantized.value, torch.from_numpy(cast) * scale)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_integers_are_rounded_at_the_exact_scale(bits: int) -> None:
    x = blocks()
    quantized = quantize(MXInt8Act, x, bit_width=bits)
    scale = exact_scale(x, bits - 1)
    assert torch.equal(quantized.scale_.squeeze(-1), scale)
    limit = 2 ** (bits - 1)
    integer = (x.double() / scale).round().clamp(-limit, limit - 1)
    assert torch.equal(quantized.int(float_datatype=True).double(), integer)
    assert torch.equal(quantized.value.double(), integer * scale)


def test_integers_of_the_specification() -> None:
    """Multiples of 1/64 below 2: no magnitude is off by a whole step."""
    declared = {"int_scaling_impl": IntScaling, "narrow_range": True}
    x = blocks()
    quantized = quantize(MXInt8Act, x, **declared)
    scale = exact_scale(x, 6)
    assert torch.equal(quantized.scale_.squeeze(-1), scale)
    assert torch.equal(quantized.value, (x / scale).round().clamp(-127, 127) * scale)
    assert ((quantized.value - x).abs() < scale).all()


@pytest.mark.parametrize(("quantizer", "exponent"), [(MXInt8Act, 7), (MXFloat8e4m3Act, 8)])
@pytest.mark.parametrize("largest", [0.0, 1e-45, 1e-39, 1e-11])
def test_small_groups_have_the_smallest_scale(
    quantizer: Any, exponent: int, largest: float
) -> None:
    x = torch.full((1, 32), largest, requires_grad=True)
    quantized = quantize(quantizer, x)
    assert quantized.scale_.item() == torch.tensor(SMALLEST).div(2**exponent).item()
    # Off by at most half a step, all of which are below the smallest scale.
    assert (quantized.value - x).abs().max() <= quantized.scale_.item() / 2
    quantized.value.sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize("quantizer", [MXInt8Act, MXFloat8e4m3Act])
@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_a_group_with_a_number_that_is_none_is_none(quantizer: Any, number: float) -> None:
    x = torch.ones(3, 64)
    x[1, 40] = number
    value = quantize(quantizer, x).value
    lost = torch.zeros(3, 64, dtype=torch.bool)
    lost[1, 32:] = True
    assert torch.equal(value.isnan(), lost) and (value[~lost].isfinite()).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_have_the_same_scales(dtype: torch.dtype) -> None:
    x = blocks()[:400].clamp(-60000, 60000).to(dtype)
    quantized = quantize(MXFloat8e4m3Act, x)
    assert quantized.value.dtype is dtype
    largest = x.float().abs().amax(-1)
    normal = largest >= SMALLEST
    assert torch.equal(
        quantized.scale_.flatten()[normal].float(), exact_scale(x.float(), 8).flatten()[normal]
    )


@every_format
def test_weights_equal_activations(bits: tuple[int, int]) -> None:
    layer = qnn.QuantLinear(
        70,
        4,
        weight_quant=MXFloat8e4m3Weight,
        **{f"weight_{k}": v for k, v in minifloat(bits).items()},
    )
    expected = quantize(MXFloat8e4m3Act, layer.weight.detach(), **minifloat(bits))
    actual = layer.quant_weight()
    assert torch.equal(actual.value, expected.value) and torch.equal(actual.scale_, expected.scale_)


def test_channels_of_images_are_grouped_by_place() -> None:
    x = torch.randn(2, 40, 3, 3)
    for quantizer in (MXInt8Act, MXFloat8e4m3Act):
        layer = qnn.QuantIdentity(quantizer, group_dim=1, return_quant_tensor=True)
        places = layer(x).value.movedim(1, -1)
        assert torch.equal(places, quantize(quantizer, x.movedim(1, -1)).value)


def test_a_trained_weight_keeps_its_format() -> None:
    torch.manual_seed(0)
    layer = qnn.QuantLinear(40, 3, weight_quant=MXInt8Weight, input_quant=MXInt8Act)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    x, target = torch.randn(64, 40), torch.randn(64, 3)
    losses = []
    for _ in range(20):
        loss = (layer(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    weight = layer.quant_weight()
    assert weight.is_valid and torch.equal(weight.scale_.log2(), weight.scale_.log2().round())
