"""One factor and one offset per channel."""

from __future__ import annotations

import pytest
import torch

import brevitas.nn as qnn
from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerChannelFloat, Int32Bias

X = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
SHAPES = {(1, -1, 1, 1): X, (1, -1, 1): X[..., 0], (1, -1): X[..., 0, 0], (-1, 1, 1): X[0]}
INTEGER = {
    "input_quant": Int8ActPerTensorFloat,
    "bias_quant": Int32Bias,
    "return_quant_tensor": True,
}


def filled(layer):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (layer.weight, layer.bias):
            if parameter is not None:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_float_layer(shape, bias):
    layer, x = filled(qnn.ScaleBias(3, bias, runtime_shape=shape)), SHAPES[shape]
    expected = x * layer.weight.reshape(shape)
    expected = expected + layer.bias.reshape(shape) if bias else expected
    assert torch.equal(layer(x), expected)


def test_starts_as_the_identity():
    assert torch.equal(qnn.ScaleBias(3, True)(X), X)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_without_quantizers_is_the_float_layer(shape, bias):
    layer = filled(qnn.QuantScaleBias(3, bias, weight_quant=None, runtime_shape=shape))
    twin = filled(qnn.ScaleBias(3, bias, runtime_shape=shape))
    assert torch.equal(layer(SHAPES[shape]), twin(SHAPES[shape]))


@pytest.mark.parametrize("weight_quant", [None, Int8WeightPerChannelFloat])
@pytest.mark.parametrize("bias", [True, False])
def test_integers_are_products_and_sums(weight_quant, bias):
    quantizer = {} if weight_quant is None else {"weight_quant": weight_quant}
    layer = filled(qnn.QuantScaleBias(3, bias, **quantizer, **INTEGER))
    layer(X)
    y = layer.eval()(X)
    x, weight = layer.input_quant(X), layer.quant_weight()
    assert y.is_valid and y.bit_width == (33 if bias else 16)
    torch.testing.assert_close(y.scale.flatten(), (x.scale * weight.scale).flatten())
    integers = x.int().long() * weight.int().long().reshape(-1, 1, 1)
    if bias:
        offset = layer.bias_quant(layer.bias, x, weight)
        integers = integers + offset.int().long().reshape(-1, 1, 1)
    assert torch.equal(y.int().long(), integers)


def test_worst_case_fits_the_bits():
    layer = filled(qnn.QuantScaleBias(3, False, **{**INTEGER, "bias_quant": None}))
    layer(X)
    layer.eval()
    with torch.no_grad():
        layer.weight.fill_(-1.0)
    for extreme in (1e6, -1e6):
        y = layer(torch.full_like(X, extreme))
        assert y.is_valid and y.bit_width == layer.max_acc_bit_width(8, 8)


def test_parameters_get_gradients():
    layer = filled(qnn.QuantScaleBias(3, True, **INTEGER))
    layer(X).value.square().sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    assert "3, bias=True" in repr(layer)
