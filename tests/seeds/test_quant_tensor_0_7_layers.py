"""'An overview of QuantTensor and QuantConv2d' (0.7): quantization of input, output and bias."""

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
from brevitas.quant_tensor import QuantTensor
from seeds.facts import assert_prints
from seeds.quant_tensor_stream import wind_to_cell_0_7


def assert_printed(out_tensor: Tensor | QuantTensor, row: str, *fields: str) -> None:
    """Compare the fields of a valid quant tensor with the numbers that the document prints."""
    assert isinstance(out_tensor, QuantTensor) and out_tensor.is_valid is True
    assert out_tensor.value.grad_fn is not None and out_tensor.signed and out_tensor.training
    for field in fields:
        assert_prints(getattr(out_tensor, field), row, field)


@pytest.fixture
def input_quant_conv() -> QuantConv2d:
    """Cell [110], before its forward pass."""
    wind_to_cell_0_7(110)
    return QuantConv2d(
        in_channels=2,
        out_channels=3,
        kernel_size=(3, 3),
        bias=False,
        input_quant=Int8ActPerTensorFloat,
        return_quant_tensor=True,
    )


@pytest.fixture
def quant_tensor_input() -> QuantTensor:
    """Cell [112]."""
    wind_to_cell_0_7(112)
    scale = 0.0001
    bit_width = 8
    zero_point = 0.0
    int_value = torch.randint(
        low=-(2 ** (bit_width - 1)), high=2 ** (bit_width - 1) - 1, size=(1, 2, 5, 5)
    )
    quant_value = (int_value - zero_point) * scale
    return QuantTensor(
        quant_value,
        scale=torch.tensor(scale),
        zero_point=torch.tensor(zero_point),
        bit_width=torch.tensor(float(bit_width)),
        signed=True,
        training=True,
    )


@pytest.fixture
def bias_quant_conv() -> QuantConv2d:
    """Cell [119], before its forward pass."""
    wind_to_cell_0_7(119)
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
    """Cell [121], before its forward pass."""
    wind_to_cell_0_7(121)
    return QuantConv2d(
        in_channels=2,
        out_channels=3,
        kernel_size=(3, 3),
        bias=True,
        input_quant=Int8ActPerTensorFloat,
        bias_quant=Int8Bias,
        return_quant_tensor=True,
    )


def test_s3_22_quantized_input(input_quant_conv: QuantConv2d) -> None:
    out_tensor = input_quant_conv(torch.randn(1, 2, 5, 5))
    assert_printed(out_tensor, "S3-22", "value", "scale", "zero_point", "bit_width")


def test_s3_23_constructor(quant_tensor_input: QuantTensor) -> None:
    assert isinstance(quant_tensor_input, QuantTensor)
    assert quant_tensor_input.signed is True and quant_tensor_input.training is True
    # The printed end of the cell.
    assert repr(quant_tensor_input).endswith(
        "scale=tensor(1.0000e-04), zero_point=tensor(0.), bit_width=tensor(8.), "
        "signed_t=tensor(True), training_t=tensor(True))"
    )


def test_s3_24_hand_made_quant_tensor_is_valid(quant_tensor_input: QuantTensor) -> None:
    assert_prints(quant_tensor_input.value, "S3-24", "value")
    assert quant_tensor_input.is_valid is True


def test_s3_25_quant_tensor_as_input(quant_tensor_input: QuantTensor) -> None:
    wind_to_cell_0_7(114)
    return_quant_conv = QuantConv2d(
        in_channels=2, out_channels=3, kernel_size=(3, 3), bias=False, return_quant_tensor=True
    )
    out_tensor = return_quant_conv(quant_tensor_input)
    assert_printed(out_tensor, "S3-25", "value", "scale", "bit_width")


def test_s3_26_quant_tensor_is_requantized(
    input_quant_conv: QuantConv2d, quant_tensor_input: QuantTensor
) -> None:
    out_tensor = input_quant_conv(quant_tensor_input)
    assert_printed(out_tensor, "S3-26", "value", "scale", "bit_width")
    # The scale is that of this batch, not the one that the input came with.
    input_scale = quant_tensor_input.value.abs().max() / 128
    expected = input_scale * input_quant_conv.quant_weight_scale()
    torch.testing.assert_close(out_tensor.scale, expected.reshape(1, 1, 1, 1))


def test_s3_27_quantized_output() -> None:
    wind_to_cell_0_7(117)
    output_quant_conv = QuantConv2d(
        in_channels=2,
        out_channels=3,
        kernel_size=(3, 3),
        bias=False,
        output_quant=Int8ActPerTensorFloat,
        return_quant_tensor=True,
    )
    out_tensor = output_quant_conv(torch.randn(1, 2, 5, 5))
    assert_printed(out_tensor, "S3-27", "value", "scale", "bit_width")


def test_s3_28_bias_without_quantized_input(bias_quant_conv: QuantConv2d) -> None:
    with pytest.raises(RuntimeError, match="Input scale required"):
        bias_quant_conv(torch.randn(1, 2, 5, 5))


def test_s3_29_bias_with_quant_tensor(
    bias_quant_conv: QuantConv2d, quant_tensor_input: QuantTensor
) -> None:
    out_tensor = bias_quant_conv(quant_tensor_input)
    assert_printed(out_tensor, "S3-29", "value", "scale", "bit_width")


def test_s3_30_quantized_input_and_bias(input_bias_quant_conv: QuantConv2d) -> None:
    out_tensor = input_bias_quant_conv(torch.randn(1, 2, 5, 5))
    assert_printed(out_tensor, "S3-30", "value", "scale", "bit_width")


def test_s3_31_quantized_input_and_bias_with_quant_tensor(
    input_bias_quant_conv: QuantConv2d, quant_tensor_input: QuantTensor
) -> None:
    out_tensor = input_bias_quant_conv(quant_tensor_input)
    assert_printed(out_tensor, "S3-31", "value", "scale", "bit_width")


def test_s3_32_quantized_output_does_not_help_the_bias() -> None:
    wind_to_cell_0_7(123)
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


def test_s3_33_bias_with_a_scale_of_its_own() -> None:
    wind_to_cell_0_7(124)
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
    assert_prints(out, "S3-33", "output")


def test_s3_34_float_bias_goes_into_the_zero_point() -> None:
    wind_to_cell_0_7(125)
    unquant_bias_input_quant_conv = QuantConv2d(
        in_channels=2,
        out_channels=3,
        kernel_size=(3, 3),
        bias=True,
        input_quant=Int8ActPerTensorFloat,
        return_quant_tensor=True,
    )
    out_tensor = unquant_bias_input_quant_conv(torch.randn(1, 2, 5, 5))
    assert_printed(out_tensor, "S3-34", "value", "scale", "zero_point", "bit_width")
    assert out_tensor.zero_point.grad_fn is not None


def test_s3_35_plain_tensor_by_default() -> None:
    wind_to_cell_0_7(127)
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
    assert_prints(out, "S3-35", "output")
    # Quantized all the same: the values of the quant tensor that the layer can return.
    bias_input_quant_conv.return_quant_tensor = True
    out_tensor = bias_input_quant_conv(inp)
    assert out_tensor.is_valid and torch.equal(out_tensor.value, out)
