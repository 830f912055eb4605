"""'An overview of QuantTensor and QuantConv2d' (0.7), up to its section 'Input Quantization'."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor, nn

from brevitas.nn import QuantConv2d, QuantIdentity
from brevitas.quant.scaled_int import Int8WeightPerTensorFloat
from brevitas.quant_tensor import QuantTensor
from seeds.facts import assert_prints
from seeds.quant_tensor_stream import wind_to_cell_0_7


@pytest.fixture
def default_quant_conv() -> QuantConv2d:
    """Cell [2]."""
    return QuantConv2d(in_channels=2, out_channels=3, kernel_size=(3, 3), bias=False)


@pytest.fixture
def outputs() -> tuple[QuantTensor, QuantTensor]:
    """Cell [10]: two outputs of the same activation, in training."""
    wind_to_cell_0_7(10)
    quant_act = QuantIdentity(return_quant_tensor=True)
    return quant_act(torch.randn(1, 2, 5, 5)), quant_act(torch.randn(1, 2, 5, 5))


@pytest.fixture
def quant_tensor() -> QuantTensor:
    """Cell [108]."""
    wind_to_cell_0_7(108)
    quant_identity = QuantIdentity(return_quant_tensor=True)
    return quant_identity(torch.randn(1, 3, 4, 4))


def test_s3_01_arguments() -> None:
    arguments = {
        "stride": 1,
        "padding": 0,
        "dilation": 1,
        "groups": 1,
        "bias": True,
        "weight_quant": Int8WeightPerTensorFloat,
        "bias_quant": None,
        "input_quant": None,
        "output_quant": None,
        "return_quant_tensor": False,
    }
    parameters = inspect.signature(QuantConv2d.__init__).parameters
    assert {name: parameters[name].default for name in arguments} == arguments
    # Each of them, and padding_type, may be written out.
    layer = QuantConv2d(
        in_channels=2, out_channels=3, kernel_size=(3, 3), padding_type="standard", **arguments
    )
    assert layer(torch.randn(1, 2, 5, 5)).shape == (1, 3, 3, 3)
    assert layer.padding_type == "standard"


@pytest.mark.parametrize("stride", [1, 2])
def test_s3_01_padding_type_same(stride: int) -> None:
    layer = QuantConv2d(2, 3, (3, 3), stride=stride, padding_type="same", weight_quant=None)
    x = torch.randn(1, 2, 5, 5)
    expected = nn.functional.conv2d(x, layer.weight, layer.bias, stride=stride, padding=1)
    torch.testing.assert_close(layer(x), expected)
    assert layer.padding_type == "same"


def test_s3_02_order_of_arguments() -> None:
    # The seventh is groups, then as now. The eighth was bias; in the 0.11 document (S1-01), which
    # decides, it is padding_mode, then comes bias.
    layer = QuantConv2d(2, 4, (3, 3), 1, 0, 1, 2, "zeros", False, padding_type="same")
    assert layer.groups == 2 and layer.padding_mode == "zeros" and layer.bias is None
    assert layer(torch.randn(1, 2, 5, 5)).shape == (1, 4, 5, 5)
    # A bias in its older place is refused, not taken for something else.
    with pytest.raises(TypeError, match="padding_mode=False.*pass both by keyword"):
        QuantConv2d(2, 4, (3, 3), 1, 0, 1, 2, False)


@pytest.mark.parametrize("padding", [1, (1, 0)])
def test_s3_03_padding_type_same_needs_padding_zero(padding: int | tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="with padding_type='same': expected padding=0"):
        QuantConv2d(2, 3, (3, 3), padding=padding, padding_type="same")


@pytest.mark.parametrize("padding_mode", ["reflect", "replicate", "circular"])
def test_s3_03_padding_modes_of_the_newer_signature(padding_mode: str) -> None:
    # The 0.7 document allows zeros only; the 0.11 document, which decides, has the argument.
    layer = QuantConv2d(2, 3, (3, 3), padding=1, padding_mode=padding_mode, weight_quant=None)
    assert QuantConv2d(2, 3, (3, 3)).padding_mode == "zeros"
    x = torch.randn(1, 2, 5, 5)
    padded = nn.functional.pad(x, (1, 1, 1, 1), mode=padding_mode)
    expected = nn.functional.conv2d(padded, layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), expected)


def test_s3_04_is_weight_quant_enabled(default_quant_conv: QuantConv2d) -> None:
    assert default_quant_conv.is_weight_quant_enabled is True
    assert default_quant_conv.weight_quant.is_quant_enabled is True


def test_s3_05_is_bias_quant_enabled(default_quant_conv: QuantConv2d) -> None:
    assert default_quant_conv.is_bias_quant_enabled is False
    assert default_quant_conv.bias_quant.is_quant_enabled is False


def test_s3_06_is_input_quant_enabled(default_quant_conv: QuantConv2d) -> None:
    assert default_quant_conv.is_input_quant_enabled is False
    assert default_quant_conv.input_quant.is_quant_enabled is False


def test_s3_07_is_output_quant_enabled(default_quant_conv: QuantConv2d) -> None:
    assert default_quant_conv.is_output_quant_enabled is False
    assert default_quant_conv.output_quant.is_quant_enabled is False


def test_s3_09_disabled_quantization_is_a_float_convolution() -> None:
    torch.manual_seed(0)
    disabled_quant_conv = QuantConv2d(
        in_channels=2, out_channels=3, kernel_size=(3, 3), bias=False, weight_quant=None
    )
    torch.manual_seed(0)
    float_conv = nn.Conv2d(in_channels=2, out_channels=3, kernel_size=(3, 3), bias=False)
    inp = torch.randn(1, 2, 5, 5)
    assert torch.isclose(disabled_quant_conv(inp), float_conv(inp)).all().item()


def test_s3_11_int_weight(default_quant_conv: QuantConv2d) -> None:
    int_weight = default_quant_conv.int_weight()
    zero_point = default_quant_conv.quant_weight_zero_point()
    scale = default_quant_conv.quant_weight_scale()
    quant_weight_manually = (int_weight - zero_point) * scale
    assert default_quant_conv.quant_weight().value.isclose(quant_weight_manually).all().item()
    # The spelling of the 0.11 document (S1-09) gives the same.
    assert torch.equal(int_weight, default_quant_conv.quant_weight().int())
    assert not int_weight.is_floating_point() and int_weight.abs().max() == 127


def test_s3_12_quant_weight_zero_point(default_quant_conv: QuantConv2d) -> None:
    zero_point = default_quant_conv.quant_weight_zero_point()
    assert zero_point == 0
    assert torch.equal(zero_point, default_quant_conv.weight_quant.zero_point())


def test_s3_13_quant_weight_scale(default_quant_conv: QuantConv2d) -> None:
    scale = default_quant_conv.quant_weight_scale()
    torch.testing.assert_close(scale, default_quant_conv.weight.abs().max() / 127)
    assert torch.equal(scale, default_quant_conv.weight_quant.scale())


def test_s3_15_quant_weight_is_valid(default_quant_conv: QuantConv2d) -> None:
    assert default_quant_conv.quant_weight().is_valid is True


def test_s3_16_outputs_are_quant_tensors(outputs: tuple[QuantTensor, QuantTensor]) -> None:
    assert all(isinstance(output, QuantTensor) for output in outputs)
    assert not isinstance(outputs[0].value, QuantTensor)


def test_s3_17_scales_in_training(outputs: tuple[QuantTensor, QuantTensor]) -> None:
    out_tensor_0, out_tensor_1 = outputs
    assert out_tensor_0.is_valid is True
    assert out_tensor_1.is_valid is True
    assert_prints(out_tensor_0.scale, "S3-17", "scale0")
    assert_prints(out_tensor_1.scale, "S3-17", "scale1")
    assert out_tensor_0.scale.grad_fn is not None and out_tensor_1.scale.grad_fn is not None


def test_s3_18_sum_in_training(outputs: tuple[QuantTensor, QuantTensor]) -> None:
    out_tensor = outputs[0] + outputs[1]
    assert_prints(out_tensor.value, "S3-18", "value")
    assert_prints(out_tensor.scale, "S3-18", "scale")
    assert_prints(out_tensor.bit_width, "S3-18", "bit_width")
    torch.testing.assert_close(out_tensor.scale, (outputs[0].scale + outputs[1].scale) / 2)
    # The printed end of the cell.
    assert repr(out_tensor).partition(", scale=")[2].startswith("tensor(0.0240, grad_fn=<")
    assert repr(out_tensor).endswith(
        "zero_point=tensor(0.), bit_width=tensor(9.), signed_t=tensor(True), "
        "training_t=tensor(True))"
    )


def test_s3_19_sum_of_different_scales_is_not_valid(
    outputs: tuple[QuantTensor, QuantTensor],
) -> None:
    out_tensor = outputs[0] + outputs[1]
    assert not out_tensor.is_valid


def test_s3_20_max_pooling_keeps_a_quant_tensor(quant_tensor: QuantTensor) -> None:
    out = torch.nn.functional.max_pool2d(quant_tensor, kernel_size=2, stride=2)
    assert isinstance(out, QuantTensor) and out.is_valid
    assert_prints(out.value, "S3-20", "value")
    assert_prints(out.scale, "S3-20", "scale")
    assert_prints(out.bit_width, "S3-20", "bit_width")


def test_s3_21_tanh_gives_a_tensor(quant_tensor: QuantTensor) -> None:
    out = torch.tanh(quant_tensor)
    assert type(out) is Tensor and out.grad_fn is not None
    assert_prints(out, "S3-21", "tanh")
