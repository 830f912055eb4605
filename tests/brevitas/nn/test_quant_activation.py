"""Quantized activation functions against formulas in plain torch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import brevitas.nn as qnn
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Uint8ActPerTensorFloat,
    Uint8ActPerTensorFloatMaxInit,
)
from brevitas.quant_tensor import IntQuantTensor

UNSIGNED = [(qnn.QuantReLU, torch.relu), (qnn.QuantSigmoid, torch.sigmoid)]
SIGNED = [(qnn.QuantTanh, torch.tanh), (qnn.QuantIdentity, lambda x: x)]


@pytest.fixture
def x():
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("layer", "function"), UNSIGNED + SIGNED)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_formula(layer, function, bits, x):
    module = layer(bit_width=bits, return_quant_tensor=True)
    output = module(x)
    y = function(x)
    signed = (layer, function) in SIGNED
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    # The 99.999th percentile of twenty magnitudes is the largest.
    scale = y.abs().max() / (2 ** (bits - 1) if signed else 2**bits - 1)
    expected = (y / scale).round().clamp(low, high) * scale
    torch.testing.assert_close(output.scale, scale)
    torch.testing.assert_close(output.value, expected)
    assert output.signed == signed and output.bit_width == bits and output.is_valid


@pytest.mark.parametrize(("layer", "function"), UNSIGNED + SIGNED)
def test_gradient(layer, function, x):
    """Straight through inside the range, zero where it clamps, once the scale is a constant."""
    module = layer(bit_width=4, collect_stats_steps=1)
    module(x)
    inputs = (2 * x).requires_grad_()
    output = module(inputs)
    output.sum().backward()
    reference = (2 * x).requires_grad_()
    y = function(reference)
    scale = module.act_quant.scale().detach()
    signed = (layer, function) in SIGNED
    integers = (y / scale).round()
    inside = (integers >= (-8 if signed else 0)) & (integers <= (7 if signed else 15))
    (y * inside).sum().backward()
    torch.testing.assert_close(inputs.grad, reference.grad)


def test_hardtanh_clamps_to_its_range(x):
    module = qnn.QuantHardTanh(min_val=-0.5, max_val=0.5, bit_width=4, return_quant_tensor=True)
    output = module(3 * x)
    scale = torch.tensor(0.5 / 8)
    expected = (3 * x / scale).round().clamp(-8, 7) * scale
    torch.testing.assert_close(output.value, expected)
    assert [key for key, _ in module.named_parameters()] == [
        "act_quant.fused_activation_quant_proxy.tensor_quant.scaling_impl.value"
    ]


def test_plain_hardtanh_keeps_the_clamp(x):
    assert torch.equal(qnn.QuantHardTanh(act_quant=None)(3 * x), nn.functional.hardtanh(3 * x))


def test_given_range_starts_the_scale(x):
    module = qnn.QuantReLU(act_quant=Uint8ActPerTensorFloatMaxInit, max_val=6.0)
    torch.testing.assert_close(module.act_quant.scale(), torch.tensor(6.0 / 255))
    assert module.act_quant.scale().requires_grad


def test_input_quantizer_comes_first(x):
    module = qnn.QuantReLU(input_quant=Int8ActPerTensorFloat, input_bit_width=3, act_quant=None)
    expected = torch.relu(module.input_quant(x).value)
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_requantizes_a_quant_tensor(scale, x):
    inputs = IntQuantTensor((x / scale).round() * scale, scale, 0.0, 8, True, False)
    module = qnn.QuantReLU(bit_width=4, return_quant_tensor=True)
    output = module(inputs)
    assert output.bit_width == 4 and not output.signed
    torch.testing.assert_close(output.value, module(inputs.value).value)


def test_plain_relu_keeps_the_grid_of_a_quant_tensor(x):
    inputs = IntQuantTensor(x.round(), 1.0, 0.0, 8, True, False)
    output = qnn.QuantReLU(act_quant=None, return_quant_tensor=True)(inputs)
    assert torch.equal(output.value, torch.relu(x.round()))
    assert output.scale is inputs.scale and output.is_valid


@pytest.mark.parametrize("layer", [qnn.QuantSigmoid, qnn.QuantTanh])
def test_other_functions_leave_the_grid(layer, x):
    inputs = IntQuantTensor(x.round(), 1.0, 0.0, 8, True, False)
    assert type(layer(act_quant=None)(inputs)) is torch.Tensor


def test_scale_per_channel():
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    module = qnn.QuantReLU(
        scaling_per_output_channel=True,
        per_channel_broadcastable_shape=(1, 3, 1, 1),
        return_quant_tensor=True,
    )
    expected = x.relu().amax((0, 2, 3)) / 255
    scale = module(x).scale
    assert scale.shape == (1, 3, 1, 1)
    torch.testing.assert_close(scale.flatten(), expected)


def test_average_of_the_statistics(x):
    """While collecting: in training the batch's own scale, in evaluation the moving average."""
    module = qnn.QuantReLU(act_quant=Uint8ActPerTensorFloat, collect_stats_steps=3)
    largest = []
    average = None
    for factor in (1.0, 3.0, 2.0):
        module.train()(factor * x)
        largest.append(factor * x.relu().max())
        average = largest[0] if average is None else 0.9 * average + 0.1 * largest[-1]
        scale = module.eval().act_quant.scale()
        torch.testing.assert_close(scale.detach(), average / 255)
    module.train()
    assert not module.act_quant.fused_activation_quant_proxy.tensor_quant.scaling_impl.collecting
    module(100 * x)
    torch.testing.assert_close(module.act_quant.scale().detach(), average / 255)
    assert module.act_quant.scale().requires_grad


def test_empty_input_in_evaluation():
    module = qnn.QuantReLU()
    module(torch.ones(3))
    assert module.eval()(torch.empty(0, 3)).shape == (0, 3)
