"""The quantized linear layer against formulas in plain torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import brevitas.nn as qnn
from brevitas.inject.enum import BitWidthImplType
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8BiasPerTensorFloatInternalScaling,
    Int8WeightPerChannelFloat,
    Int8WeightPerTensorFloat,
    Int16Bias,
    Int32Bias,
    Uint8ActPerTensorFloat,
)
from brevitas.quant_tensor import IntQuantTensor


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def quantize(x, scale, bits, signed=True, narrow=False):
    """The definition: `clamp(round(x / scale)) * scale`."""
    low = -(2 ** (bits - 1)) + narrow if signed else 0
    high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    return (x / scale).round().clamp(low, high) * scale


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (2, 3, 5, 4), (0, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_float_layer_of_any_input_shape(shape, bias):
    torch.manual_seed(1)
    layer = qnn.QuantLinear(4, 6, bias=bias, weight_quant=None)
    torch.manual_seed(1)
    twin = nn.Linear(4, 6, bias=bias)
    x = torch.randn(shape)
    assert torch.equal(layer(x), twin(x))
    assert (layer.bias is None) == (not bias)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("per_channel", [True, False])
def test_weight_formula(bits, per_channel):
    weight_quant = Int8WeightPerChannelFloat if per_channel else Int8WeightPerTensorFloat
    layer = qnn.QuantLinear(4, 6, weight_quant=weight_quant, weight_bit_width=bits)
    magnitude = layer.weight.abs()
    largest = magnitude.amax(1, keepdim=True) if per_channel else magnitude.max()
    expected = quantize(layer.weight, largest / (2 ** (bits - 1) - 1), bits, narrow=True)
    torch.testing.assert_close(layer.quant_weight().value, expected)
    x = torch.randn(3, 4)
    torch.testing.assert_close(layer(x), F.linear(x, expected, layer.bias))


def test_keyword_of_granularity_is_the_quantizer_per_channel():
    torch.manual_seed(1)
    by_keyword = qnn.QuantLinear(4, 6, weight_scaling_per_output_channel=True)
    torch.manual_seed(1)
    by_class = qnn.QuantLinear(4, 6, weight_quant=Int8WeightPerChannelFloat)
    assert torch.equal(by_keyword.quant_weight().value, by_class.quant_weight().value)


def test_keywords_reach_their_quantizer():
    act = Int8ActPerTensorFloat
    layer = qnn.QuantLinear(
        4,
        6,
        bias_quant=Int32Bias,
        input_quant=act,
        output_quant=act,
        weight_bit_width=3,
        bias_bit_width=5,
        input_bit_width=6,
        output_bit_width=7,
    )
    layer(torch.randn(3, 4))
    assert layer.weight_quant.bit_width() == 3
    assert layer.input_quant.bit_width() == 6
    assert layer.output_quant.bit_width() == 7
    quant_input = layer.input_quant(torch.randn(3, 4))
    quant_bias = layer.bias_quant(layer.bias, quant_input, layer.quant_weight())
    assert quant_bias.bit_width == 5


def test_straight_through_gradients():
    layer = qnn.QuantLinear(4, 6)
    x = torch.randn(3, 4, requires_grad=True)
    upstream = torch.randn(3, 6)
    layer(x).backward(upstream)
    quant_weight = layer.quant_weight().value.detach()
    torch.testing.assert_close(x.grad, upstream @ quant_weight)
    torch.testing.assert_close(layer.bias.grad, upstream.sum(0))
    # d w_q / d w: 1 for rounding, and for the largest magnitude what its scale passes on.
    weight = layer.weight.detach()
    scale = weight.abs().max() / 127
    step = quant_weight / scale - weight / scale
    per_weight = upstream.t() @ x.detach()
    expected = per_weight.clone()
    place = weight.abs().argmax()
    expected.view(-1)[place] += (per_weight * step).sum() / 127 * weight.view(-1)[place].sign()
    torch.testing.assert_close(layer.weight.grad, expected)


def test_bias_with_the_scale_of_the_accumulator():
    layer = qnn.QuantLinear(
        4, 6, bias_quant=Int16Bias, input_quant=Int8ActPerTensorFloat, return_quant_tensor=True
    )
    with torch.no_grad():
        layer.bias[0] = 1e3  # saturates
    x = torch.randn(3, 4)
    output = layer(x)
    quant_input, quant_weight = layer.input_quant(x), layer.quant_weight()
    scale = quant_input.scale * quant_weight.scale
    expected = quantize(layer.bias, scale, 16)
    # The layer's sum and this one round differently: a few eps of the largest term.
    torch.testing.assert_close(
        output.value,
        F.linear(quant_input.value, quant_weight.value, expected),
        rtol=1e-6,
        atol=1e-6,
    )
    assert expected[0] < 1e3
    assert output.is_valid
    assert not output.zero_point.any()
    assert output.bit_width == max(17 + 1, 16) + 1


def test_bias_with_its_own_scale():
    layer = qnn.QuantLinear(4, 6, bias_quant=Int8BiasPerTensorFloatInternalScaling)
    x = torch.randn(3, 4)
    scale = layer.bias.abs().max() / 128
    expected = quantize(layer.bias, scale, 8)
    torch.testing.assert_close(layer.quant_bias().value, expected)
    torch.testing.assert_close(layer(x), F.linear(x, layer.quant_weight().value, expected))


def test_float_bias_becomes_the_zero_point():
    layer = qnn.QuantLinear(4, 6, input_quant=Int8ActPerTensorFloat, return_quant_tensor=True)
    output = layer(torch.randn(3, 4))
    assert output.is_valid
    torch.testing.assert_close(output.zero_point, (-layer.bias / output.scale).reshape(1, 6))
    integers = output.value / output.scale + output.zero_point
    # Integers up to 4 * 127 * 127: float32 holds them to eps * 2**17 = 0.016.
    assert float((integers - integers.round()).detach().abs().max()) < 0.02


@pytest.mark.parametrize(
    ("bits", "signed"), [(2, False), (3, True), (4, False), (8, True), (8, False)]
)
@pytest.mark.parametrize("features", [1, 2, 5, 64])
def test_accumulator_holds_the_worst_case(bits, signed, features):
    """All integers at their limits, with the signs that add up."""
    act = Int8ActPerTensorFloat if signed else Uint8ActPerTensorFloat
    layer = qnn.QuantLinear(
        features, 2, bias=False, input_quant=act, input_bit_width=bits, weight_bit_width=bits
    )
    accumulator = layer.max_acc_bit_width(layer.input_quant.bit_width(), torch.tensor(float(bits)))
    largest_weight = 2 ** (bits - 1) - 1  # narrow range
    largest_input = 2 ** (bits - 1) if signed else 2**bits - 1
    worst = features * largest_weight * largest_input
    assert worst <= 2 ** (int(accumulator) - 1) - 1
    assert accumulator.dtype == torch.float32 and accumulator.dim() == 0


def test_worst_case_is_valid_with_a_bias():
    layer = qnn.QuantLinear(
        8,
        1,
        input_quant=Uint8ActPerTensorFloat,
        bias_quant=Int16Bias,
        weight_bit_width=4,
        input_bit_width=4,
        return_quant_tensor=True,
    )
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.bias.fill_(1e9)
    assert layer(torch.ones(2, 8)).is_valid


def test_learned_bit_widths_reach_the_accumulator():
    layer = qnn.QuantLinear(
        4,
        6,
        input_quant=Int8ActPerTensorFloat,
        weight_bit_width_impl_type=BitWidthImplType.PARAMETER,
        return_quant_tensor=True,
    )
    layer(torch.randn(3, 4)).bit_width.backward()
    offset = layer.weight_quant.tensor_quant.msb_clamp_bit_width_impl.bit_width_offset
    # d log2((2**a - 1) (2**w - 1) n + 1) / dw, about 1.
    assert float(offset.grad.abs()) == pytest.approx(1.0, abs=0.02)


def test_quant_tensor_in_plain_tensor_out():
    layer = qnn.QuantLinear(4, 6)
    x = IntQuantTensor(torch.randn(3, 4).sign(), 1.0, 0.0, 2, True, False)
    output = layer(x)
    assert type(output) is torch.Tensor
    assert torch.equal(output, layer(x.value))


def test_output_quantizer_decides_the_output():
    layer = qnn.QuantLinear(
        4, 6, output_quant=Int8ActPerTensorFloat, output_bit_width=3, return_quant_tensor=True
    )
    x = torch.randn(3, 4)
    output = layer(x)
    assert isinstance(output, IntQuantTensor)
    assert output.bit_width == 3 and output.is_valid
    exact = F.linear(x, layer.quant_weight().value, layer.bias)
    expected = quantize(exact, output.scale, 3)
    torch.testing.assert_close(output.value, expected)


def test_part_of_the_weight():
    layer = qnn.QuantLinear(4, 6)
    part = layer.quant_weight(subtensor_slice_list=[(1, 3), None])
    assert torch.equal(part.value, layer.quant_weight().value[1:3])


def test_descriptions():
    layer = qnn.QuantLinear(4, 6)
    assert layer.out_channels == 6
    assert layer.output_channel_dim == 0
    assert layer.per_elem_ops == 8
    assert not layer.channelwise_separable
    assert str(layer).startswith("QuantLinear(\n  in_features=4, out_features=6, bias=True")
