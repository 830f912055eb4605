"""'An overview of QuantTensor and QuantConv2d' (0.11): quantization of input, output and bias."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from brevitas.nn import QuantConv2d
from brevitas.quant.scaled_int import (
    Int8ActPerTensorFloat,
    Int8Bias,
    Int8BiasPerTensorFloatInternalScaling,
)
from brevitas.quant_tensor import IntQuantTensor
from seeds.facts import assert_prints
from seeds.quant_tensor_stream import wind_to_cell


@pytest.fixture
def input_quant_conv() -> QuantConv2d:
    """Cell [14], before its forward pass."""
    wind_to_cell(14)
    return QuantConv2d(
        in_channels=2,
        out_channels=3,
        kernel_size=(3, 3),
        bias=False,
        input_quant=Int8ActPerTensorFloat,
        return_quant_tensor=True,
    )


@pytest.fixture
def quant_tensor_input() -> IntQuantTensor:
    """Cell [16]."""
    wind_to_cell(16)
    scale = 0.0001
    bit_width = 8
    zero_point = 0.0
    int_value = torch.randint(
        low=-(2 ** (bit_width - 1)), high=2 ** (bit_width - 1) - 1, size=(1, 2, 5, 5)
    )
    quant_value = (int_value - zero_point) * scale
    return IntQuantTensor(
        quant_value,
        scale=torch.tensor(scale),
        zero_point=torch.tensor(zero_point),
        bit_width=torch.tensor(float(bit_width)),
        signed=True,
        training=True,
    )


@pytest.fixture
def bias_quant_conv() -> QuantConv2d:
    """Cell [23], before its forward pass."""
    wind_to_cell(23)
    return QuantConv2d(
        in_channels=2,
        out_channels=3,
        kernel_size=(3, 3),
        bias=True,
        bias_quant=Int8Bias,
        return_quant_tensor=True,
    )


@pytest.fixture
def input_bias_quant_conv() -> QuantConv2d:
    """Cell [25], before its forward pass."""
    wind_to_cell(25)
    return QuantConv2d(
        in_channels=2,
        out_channels=3,
        kernel_size=(3, 3),
        bias=True,
        input_quant=Int8ActPerTensorFloat,
        bias_quant=Int8Bias,
        return_quant_tensor=True,
    )


def test_s1_19_quantized_input(input_quant_conv: QuantConv2d) -> None:
    out_tensor = input_quant_conv(torch.randn(1, 2, 5, 5))
    assert type(out_tensor) is IntQuantTensor and out_tensor.shape == (1, 3, 3, 3)
    # The page break hides the first row of the last channel.
    printed_places = [*range(18), *range(21, 27)]
    assert_prints(out_tensor.value.flatten()[printed_places], "S1-19", "value")
    assert out_tensor.bit_width == 21


def test_s1_20_output_of_two_quantized_operands_is_valid(input_quant_conv: QuantConv2d) -> None:
    out_tensor = input_quant_conv(torch.randn(1, 2, 5, 5))
    assert out_tensor.is_valid is True
    # The worst case: each of the 2 * 3 * 3 products of 8-bit numbers as large as it can be.
    largest = 2 * 3 * 3 * (2**8 - 1) * (2**7 - 1)
    assert out_tensor.bit_width == 21 and 2**19 <= largest < 2**20
    with torch.no_grad():
        input_quant_conv.weight.fill_(1.0)
    saturated = input_quant_conv(torch.full((1, 2, 5, 5), -1.0))
    assert saturated.is_valid is True
    assert saturated.int().unique().tolist() == [-2 * 3 * 3 * 128 * 127]


def test_s1_21_constructor(quant_tensor_input: IntQuantTensor) -> None:
    # The page breaks hide the fifth number and a row of the second channel.
    printed_places = [*range(4), *range(5, 35), *range(40, 50)]
    assert_prints(quant_tensor_input.value.flatten()[printed_places], "S1-21", "value")
    assert quant_tensor_input.scale == torch.tensor(0.0001)
    assert quant_tensor_input.zero_point == 0 and quant_tensor_input.bit_width == 8
    assert quant_tensor_input.signed is True and quant_tensor_input.training is True


def test_s1_22_hand_made_quant_tensor_is_valid(quant_tensor_input: IntQuantTensor) -> None:
    assert quant_tensor_input.is_valid is True


def test_s1_23_quant_tensor_as_input(quant_tensor_input: IntQuantTensor) -> None:
    wind_to_cell(18)
    return_quant_conv = QuantConv2d(
        in_channels=2, out_channels=3, kernel_size=(3, 3), bias=False, return_quant_tensor=True
    )
    out_tensor = return_quant_conv(quant_tensor_input)
    assert_prints(out_tensor.value, "S1-23", "value")
    assert out_tensor.bit_width == 21
    assert out_tensor.is_valid is True


def test_s1_24_quant_tensor_is_requantized(
    input_quant_conv: QuantConv2d, quant_tensor_input: IntQuantTensor
) -> None:
    out_tensor = input_quant_conv(quant_tensor_input)
    assert_prints(out_tensor.value, "S1-24", "value")
    # In training, the scale of the input is that of this batch, not the one that it came with.
    input_scale = quant_tensor_input.value.abs().max() / 128
    assert not torch.isclose(input_scale, quant_tensor_input.scale)
    expected = input_scale * input_quant_conv.weight_quant.scale()
    torch.testing.assert_close(out_tensor.scale, expected.reshape(1, 1, 1, 1))
    assert out_tensor.is_valid


def test_s1_25_quantized_output() -> None:
    wind_to_cell(21)
    output_quant_conv = QuantConv2d(
        in_channels=2,
        out_channels=3,
        kernel_size=(3, 3),
        bias=False,
        output_quant=Int8ActPerTensorFloat,
        return_quant_tensor=True,
    )
    out_tensor = output_quant_conv(torch.randn(1, 2, 5, 5))
    assert_prints(out_tensor.value, "S1-25", "value")
    assert_prints(out_tensor.scale, "S1-25", "scale")
    assert out_tensor.bit_width == 8
    assert out_tensor.is_valid is True


def test_s1_26_bias_without_quantized_input(bias_quant_conv: QuantConv2d) -> None:
    with pytest.raises(RuntimeError, match="^QuantLayer is not correctly configured") as caught:
        bias_quant_conv(torch.randn(1, 2, 5, 5))
    # The 0.7 document has another message for it (S3-28); the text goes on with the remedy.
    assert "Input scale required" in str(caught.value)
    assert "Pass a QuantTensor, set `input_quant`" in str(caught.value)


def test_s1_27_bias_with_quant_tensor(
    bias_quant_conv: QuantConv2d, quant_tensor_input: IntQuantTensor
) -> None:
    out_tensor = bias_quant_conv(quant_tensor_input)
    assert_prints(out_tensor.value, "S1-27", "value")
    assert_prints(out_tensor.scale, "S1-27", "scale")
    assert out_tensor.is_valid and out_tensor.bit_width == 22
    assert "scale=tensor([[[[1.7953e-07]]]], grad_fn=<MulBa" in repr(out_tensor)


def test_s1_28_quantized_input_and_bias(input_bias_quant_conv: QuantConv2d) -> None:
    out_tensor = input_bias_quant_conv(torch.randn(1, 2, 5, 5))
    assert_prints(out_tensor.value, "S1-28", "value")
    # A sum of 21-bit and 8-bit integers.
    assert out_tensor.bit_width == 22 and out_tensor.is_valid


def test_s1_29_quantized_input_and_bias_with_quant_tensor(
    input_bias_quant_conv: QuantConv2d, quant_tensor_input: IntQuantTensor
) -> None:
    out_tensor = input_bias_quant_conv(quant_tensor_input)
    assert_prints(out_tensor.value, "S1-29", "value")
    assert out_tensor.bit_width == 22 and out_tensor.is_valid


def test_s1_30_quantized_output_does_not_help_the_bias() -> None:
    wind_to_cell(27)
    output_bias_quant_conv = QuantConv2d(
        in_channels=2,
        out_channels=3,
        kernel_size=(3, 3),
        bias=True,
        output_quant=Int8ActPerTensorFloat,
        bias_quant=Int8Bias,
        return_quant_tensor=True,
    )
    with pytest.raises(RuntimeError, match="Input scale required"):
        output_bias_quant_conv(torch.randn(1, 2, 5, 5))


def test_s1_31_bias_with_a_scale_of_its_own() -> None:
    wind_to_cell(28)
    bias_internal_scale_quant_conv = QuantConv2d(
        in_channels=2,
        out_channels=3,
        kernel_size=(3, 3),
        bias=True,
        bias_quant=Int8BiasPerTensorFloatInternalScaling,
        return_quant_tensor=False,
    )
    out = bias_internal_scale_quant_conv(torch.randn(1, 2, 5, 5))
    assert type(out) is Tensor and out.grad_fn is not None
    assert_prints(out, "S1-31", "output")


def test_s1_32_float_bias_goes_into_the_zero_point() -> None:
    wind_to_cell(29)
    unquant_bias_input_quant_conv = QuantConv2d(
        in_channels=2,
        out_channels=3,
        kernel_size=(3, 3),
        bias=True,
        input_quant=Int8ActPerTensorFloat,
        return_quant_tensor=True,
    )
    out_tensor = unquant_bias_input_quant_conv(torch.randn(1, 2, 5, 5))
    # The page break hides two rows of the second channel and the first zero point.
    printed_places = [*range(9), *range(15, 27)]
    assert_prints(out_tensor.value.flatten()[printed_places], "S1-32", "value")
    assert_prints(out_tensor.zero_point.flatten()[1:], "S1-32", "zero_point[ch1,ch2]")
    assert out_tensor.zero_point.shape == (1, 3, 1, 1) and out_tensor.bit_width == 21
    assert out_tensor.is_valid is True
    bias = unquant_bias_input_quant_conv.bias.reshape(1, 3, 1, 1)
    torch.testing.assert_close(-out_tensor.zero_point * out_tensor.scale, bias)


def test_s1_33_bias_with_a_scale_of_its_own_goes_into_the_zero_point() -> None:
    quant_conv = QuantConv2d(
        in_channels=2,
        out_channels=3,
        kernel_size=(3, 3),
        bias=True,
        bias_quant=Int8BiasPerTensorFloatInternalScaling,
        input_quant=Int8ActPerTensorFloat,
        return_quant_tensor=True,
    )
    out_tensor = quant_conv(torch.randn(1, 2, 5, 5))
    assert (out_tensor.zero_point != 0).all() and out_tensor.zero_point.shape == (1, 3, 1, 1)
    assert out_tensor.is_valid is True
    bias = quant_conv.quant_bias().value.reshape(1, 3, 1, 1)
    torch.testing.assert_close(-out_tensor.zero_point * out_tensor.scale, bias)


def test_s1_34_plain_tensor_by_default() -> None:
    wind_to_cell(31)
    bias_input_quant_conv = QuantConv2d(
        in_channels=2,
        out_channels=3,
        kernel_size=(3, 3),
        bias=True,
        input_quant=Int8ActPerTensorFloat,
        bias_quant=Int8Bias,
    )
    inp = torch.randn(1, 2, 5, 5)
    out = bias_input_quant_conv(inp)
    assert type(out) is Tensor and out.grad_fn is not None
    assert_prints(out.flatten()[[*range(12), 14]], "S1-34", "output[0..11,14]")
    # The line at the page's end has 0.1290 and -0.2925, one wrong digit in each.
    torch.testing.assert_close(
        out.flatten()[12:14], torch.tensor([0.1390, -0.3925]), atol=0.00005, rtol=0
    )
    # Quantized all the same: the values of the quant tensor that the layer can return.
    bias_input_quant_conv.return_quant_tensor = True
    out_tensor = bias_input_quant_conv(inp)
    assert out_tensor.is_valid and torch.equal(out_tensor.value, out)
