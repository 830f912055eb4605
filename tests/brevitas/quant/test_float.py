"""8-bit minifloats in layers, with all exponents in use for numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import brevitas.nn as qnn
from brevitas.quant import float as float_quant
from minifloats import Format

FORMATS = {"Fp8e4m3": Format(4, 3, 7, None), "Fp8e5m2": Format(5, 2, 15, None)}


@pytest.mark.parametrize("name", [n for n in float_quant.__all__ if "Weight" in n])
def test_weights_in_layers(name: str) -> None:
    torch.manual_seed(0)
    quantizer: Any = getattr(float_quant, name)
    fmt = FORMATS[name[:7]]
    layers = [qnn.QuantLinear(8, 4, weight_quant=quantizer)]
    layers.append(qnn.QuantConv2d(2, 6, 3, weight_quant=quantizer))
    layers.append(qnn.QuantConvTranspose2d(2, 6, 3, weight_quant=quantizer))
    for layer in layers:
        weight = layer.quant_weight()
        channels = 6 if hasattr(layer, "kernel_size") else 4
        assert weight.scale.numel() == (channels if "PerChannel" in name else 1)
        number = torch.tensor(fmt.reference((layer.weight / weight.scale).detach().numpy()))
        assert torch.equal(weight.value, number.float() * weight.scale)
        if "Per" in name and not name.endswith("MSE"):
            largest = (weight.value / weight.scale).abs().max().item()
            assert largest == pytest.approx(fmt.upper, rel=1e-6)


def test_the_largest_number_uses_all_exponents() -> None:
    act = qnn.QuantIdentity(float_quant.Fp8e4m3Act)
    assert act(torch.tensor([470.0, -1e9])).tolist() == [480.0, -480.0]
