"""Ternary weights and activations in layers: integers of 2 bits in narrow range."""

from __future__ import annotations

import pytest
import torch

import brevitas.nn as qnn
from brevitas.core.quant import RescalingIntQuant
from brevitas.quant import SignedTernaryActPerTensorConst, SignedTernaryWeightPerTensorConst


def test_weight() -> None:
    torch.manual_seed(0)
    layer = qnn.QuantLinear(20, 4, weight_quant=SignedTernaryWeightPerTensorConst)
    weight, scale = layer.quant_weight(), torch.tensor(0.1)
    assert type(layer.weight_quant.tensor_quant) is RescalingIntQuant
    assert torch.equal(weight.value, (layer.weight / scale).round().clamp(-1, 1) * scale)
    assert weight.scale.shape == () and weight.bit_width == 2
    assert weight.is_valid and weight.int().unique().tolist() == [-1, 0, 1]


def test_activation() -> None:
    x = torch.tensor([-3.0, -0.5, 0.5, 0.6, 3.0], requires_grad=True)
    y = qnn.QuantIdentity(SignedTernaryActPerTensorConst, return_quant_tensor=True)(x)
    assert y.value.tolist() == [-1, 0, 0, 1, 1] and y.bit_width == 2
    y.value.sum().backward()
    # Rounded to 3 and clamped: no gradient.
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize("scale", [0.25, 2.0])
def test_the_scale_is_chosen(scale: float) -> None:
    quantizer = SignedTernaryWeightPerTensorConst
    layer = qnn.QuantLinear(20, 4, weight_quant=quantizer, weight_scaling_const=scale)
    assert layer.weight_quant.scale() == scale
    act = qnn.QuantIdentity(SignedTernaryActPerTensorConst, scaling_const=scale)
    assert act(torch.tensor([-9.0, 9.0])).tolist() == [-scale, scale]


def test_what_the_proxies_say() -> None:
    proxy = qnn.QuantIdentity(SignedTernaryActPerTensorConst).act_quant
    assert proxy.is_signed is proxy.is_narrow_range is True
    assert proxy.rounding_mode == "ROUND" and proxy.bit_width() == 2
