"""Weights and biases of layers as minifloats."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import brevitas.nn as qnn
from brevitas.proxy.float_parameter_quant import BiasFloatQuantProxyFromInjector
from brevitas.quant import (
    Fp8e4m3OCPWeightPerChannelFloat,
    Fp8e4m3OCPWeightPerTensorFloat,
    Int8ActPerTensorFloat,
)
from brevitas.quant.float_base import FloatBase, Fp8e4m3Mixin
from brevitas.quant.solver import BiasQuantSolver
from brevitas.quant_tensor import FloatQuantTensor
from brevitas.utils.quant_utils import _CachedIOFloat


class Bias(Fp8e4m3Mixin, FloatBase, BiasQuantSolver):
    """A bias without a scale."""

    proxy_class = BiasFloatQuantProxyFromInjector


@pytest.mark.parametrize(
    "quantizer", [Fp8e4m3OCPWeightPerTensorFloat, Fp8e4m3OCPWeightPerChannelFloat]
)
def test_weight(quantizer: type) -> None:
    torch.manual_seed(0)
    layer = qnn.QuantLinear(8, 4, weight_quant=quantizer)
    weight = layer.quant_weight()
    assert type(weight) is FloatQuantTensor and weight.is_valid
    over = None if "Tensor" in quantizer.__name__ else 1
    largest = layer.weight.detach().abs()
    largest = largest.max() if over is None else largest.amax(1, keepdim=True)
    torch.testing.assert_close(weight.scale, largest / 448, rtol=1e-6, atol=0)
    minifloat = (layer.weight / weight.scale).to(torch.float8_e4m3fn).float()
    assert torch.equal(weight.value, minifloat * weight.scale)
    x = torch.randn(3, 8)
    assert torch.equal(layer(x), torch.nn.functional.linear(x, weight.value, layer.bias))


def test_a_kept_weight_says_its_format() -> None:
    layer = qnn.QuantLinear(8, 4, weight_quant=Fp8e4m3OCPWeightPerTensorFloat).eval()
    layer.weight_quant.cache_inference_quant_weight = True
    x = torch.ones(1, 8)
    before = layer(x)
    kept = layer.weight_quant._cached_weight
    assert type(kept) is _CachedIOFloat and layer.weight_quant.nan_values() == ("111",)
    layer.weight.data.zero_()
    assert torch.equal(layer(x), before)
    layer.train()
    assert layer.weight_quant._cached_weight is None


@pytest.mark.parametrize("input_quant", [None, Int8ActPerTensorFloat])
def test_bias(input_quant: Any) -> None:
    torch.manual_seed(0)
    layer = qnn.QuantLinear(8, 4, bias_quant=Bias, input_quant=input_quant).eval()
    proxy, bias = layer.bias_quant, layer.quant_bias()
    assert type(bias) is FloatQuantTensor and not proxy.requires_input_scale
    assert torch.equal(bias.value, layer.bias.to(torch.float8_e4m3fn).float())
    assert proxy.bit_width() == 8 and proxy.scale() == 1
    x = torch.randn(3, 8)
    quantized = x if input_quant is None else layer.input_quant(x).value
    expected = torch.nn.functional.linear(quantized, layer.quant_weight().value, bias.value)
    torch.testing.assert_close(layer(x), expected)
    proxy.disable_quant = True
    assert torch.equal(layer.quant_bias(), layer.bias)


def test_a_kept_bias() -> None:
    layer = qnn.QuantLinear(8, 4, bias_quant=Bias, cache_inference_bias=True).eval()
    layer(torch.ones(1, 8))
    assert type(layer.bias_quant._cached_bias) is _CachedIOFloat
    before = layer.quant_bias().value
    layer.bias.data.zero_()
    assert torch.equal(layer.quant_bias().value, before)
    assert layer.bias_quant.mantissa_bit_width() == 3


def test_copies_and_sharing() -> None:
    torch.manual_seed(0)
    first = qnn.QuantLinear(8, 4, weight_quant=Fp8e4m3OCPWeightPerTensorFloat)
    second = qnn.QuantLinear(8, 4, weight_quant=first.weight_quant)
    assert torch.equal(first.quant_weight().scale, second.quant_weight().scale)
    other = copy.deepcopy(first)
    assert torch.equal(other.quant_weight().value, first.quant_weight().value)
    assert other.weight_quant.tracked_module_list[0] is other
