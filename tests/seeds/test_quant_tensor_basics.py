"""'An overview of QuantTensor and QuantConv2d' (0.11), up to its section 'Input Quantization'."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor, nn

import brevitas.nn as qnn
from brevitas.nn import QuantConv2d, QuantIdentity
from brevitas.nn.quant_conv import QuantWBIOL
from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer
from brevitas.quant.scaled_int import Int8WeightPerTensorFloat
from brevitas.quant_tensor import IntQuantTensor
from seeds.facts import assert_prints
from seeds.quant_tensor_stream import wind_to_cell


@pytest.fixture
def default_quant_conv() -> QuantConv2d:
    """Cell [2]."""
    wind_to_cell(2)
    return QuantConv2d(in_channels=2, out_channels=3, kernel_size=(3, 3), bias=False)


@pytest.fixture
def outputs() -> tuple[IntQuantTensor, IntQuantTensor]:
    """Cell [9]: two outputs of the same activation, in training."""
    wind_to_cell(9)
    quant_act = QuantIdentity(return_quant_tensor=True)
    return quant_act(torch.randn(1, 2, 5, 5)), quant_act(torch.randn(1, 2, 5, 5))


@pytest.fixture
def quant_tensor() -> IntQuantTensor:
    """Cell [12]."""
    wind_to_cell(12)
    quant_identity = QuantIdentity(return_quant_tensor=True)
    return quant_identity(torch.randn(1, 3, 4, 4))


def test_s1_01_signature() -> None:
    source = inspect.getsource(QuantConv2d.__init__)
    assert "weight_quant: WeightQuantType | None = Int8WeightPerTensorFloat" in source
    _, *parameters = inspect.signature(QuantConv2d.__init__).parameters.values()
    required = inspect.Parameter.empty
    assert [(parameter.name, parameter.default) for parameter in parameters] == [
        ("in_channels", required),
        ("out_channels", required),
        ("kernel_size", required),
        ("stride", 1),
        ("padding", 0),
        ("dilation", 1),
        ("groups", 1),
        ("padding_mode", "zeros"),
        ("bias", True),
        ("weight_quant", Int8WeightPerTensorFloat),
        ("bias_quant", None),
        ("input_quant", None),
        ("output_quant", None),
        ("return_quant_tensor", False),
        ("device", None),
        ("dtype", None),
        ("kwargs", required),
    ]
    assert parameters[-1].kind is inspect.Parameter.VAR_KEYWORD


@pytest.mark.parametrize("stride", [2, 3, (1, 2), (2, 1)])
def test_s1_02_same_padding_with_a_stride(stride: int | tuple[int, int]) -> None:
    layer = QuantConv2d(2, 3, (3, 3), stride=stride, padding="same", weight_quant=None)
    assert layer.is_same_padded_strided and layer.padding == (0, 0)
    x = torch.randn(1, 2, 7, 7)
    rows, columns = layer.stride
    assert layer(x).shape == (1, 3, -(-7 // rows), -(-7 // columns))
    # For odd sizes and these strides, the same padding is one on each side.
    expected = nn.functional.conv2d(x, layer.weight, layer.bias, stride=stride, padding=1)
    torch.testing.assert_close(layer(x), expected)


def test_s1_02_same_padding_without_a_stride_is_that_of_pytorch() -> None:
    layer = QuantConv2d(2, 3, (3, 3), padding="same")
    assert not layer.is_same_padded_strided and layer.padding == "same"
    assert layer(torch.randn(1, 2, 5, 5)).shape == (1, 3, 5, 5)
    assert not QuantConv2d(2, 3, (3, 3), stride=2).is_same_padded_strided


def test_s1_03_a_convolution_and_a_quantized_layer() -> None:
    layer = QuantConv2d(2, 3, (3, 3))
    assert isinstance(layer, nn.Conv2d) and isinstance(layer, QuantWBIOL)
    assert QuantWBIOL is QuantWeightBiasInputOutputLayer
    others = (qnn.QuantLinear, qnn.QuantConv1d, qnn.QuantConvTranspose1d, qnn.QuantConvTranspose2d)
    assert all(issubclass(other, QuantWBIOL) for other in others)


def test_s1_04_only_the_weight_is_quantized_by_default(default_quant_conv: QuantConv2d) -> None:
    assert default_quant_conv.weight_quant.is_quant_enabled is True
    assert default_quant_conv.bias_quant.is_quant_enabled is False
    assert default_quant_conv.input_quant.is_quant_enabled is False
    assert default_quant_conv.output_quant.is_quant_enabled is False


def test_s1_05_output_of_a_float_input(default_quant_conv: QuantConv2d) -> None:
    out = default_quant_conv(torch.randn(1, 2, 5, 5))
    assert type(out) is Tensor and out.grad_fn is not None
    assert_prints(out, "S1-05", "output")


def test_s1_06_disabled_quantization_is_a_float_convolution() -> None:
    torch.manual_seed(0)
    disabled_quant_conv = QuantConv2d(
        in_channels=2, out_channels=3, kernel_size=(3, 3), bias=False, weight_quant=None
    )
    stream = torch.get_rng_state()
    torch.manual_seed(0)
    float_conv = nn.Conv2d(in_channels=2, out_channels=3, kernel_size=(3, 3), bias=False)
    assert torch.equal(torch.get_rng_state(), stream)
    inp = torch.randn(1, 2, 5, 5)
    assert torch.equal(disabled_quant_conv(inp), float_conv(inp))


def test_s1_07_quantized_and_float_mix(
    default_quant_conv: QuantConv2d, quant_tensor: IntQuantTensor
) -> None:
    inp = torch.randn(1, 2, 5, 5)
    weight = default_quant_conv.quant_weight()
    expected = nn.functional.conv2d(inp, (weight.int() - weight.zero_point) * weight.scale)
    torch.testing.assert_close(default_quant_conv(inp), expected)
    # A layer of PyTorch takes the dequantized values of a QuantTensor.
    float_conv = nn.Conv2d(3, 1, 2)
    assert torch.equal(float_conv(quant_tensor), float_conv(quant_tensor.value))


def test_s1_08_quant_weight(default_quant_conv: QuantConv2d) -> None:
    quant_weight = default_quant_conv.quant_weight()
    assert type(quant_weight) is IntQuantTensor and quant_weight.value.grad_fn is not None
    assert_prints(quant_weight.value, "S1-08", "value")
    assert_prints(quant_weight.scale, "S1-08", "scale")
    by_quantizer = default_quant_conv.weight_quant(default_quant_conv.weight)
    assert type(by_quantizer) is IntQuantTensor
    assert all(torch.equal(*fields) for fields in zip(by_quantizer, quant_weight, strict=True))


def test_s1_09_value_from_integers(default_quant_conv: QuantConv2d) -> None:
    int_weight = default_quant_conv.quant_weight().int()
    zero_point = default_quant_conv.weight_quant.zero_point()
    scale = default_quant_conv.weight_quant.scale()
    quant_weight_manually = (int_weight - zero_point) * scale
    assert int_weight.dtype == torch.int8
    assert default_quant_conv.quant_weight().value.isclose(quant_weight_manually).all().item()


def test_s1_10_fields(default_quant_conv: QuantConv2d) -> None:
    quant_weight = default_quant_conv.quant_weight()
    fields = ("value", "scale", "zero_point", "bit_width")
    assert all(isinstance(getattr(quant_weight, field), Tensor) for field in fields)
    assert quant_weight.zero_point == 0 and quant_weight.bit_width == 8
    assert quant_weight.signed is True and quant_weight.training is True
    assert default_quant_conv.eval().quant_weight().training is False
    assert all(field is not None for field in quant_weight)


def test_s1_11_is_valid(default_quant_conv: QuantConv2d) -> None:
    quant_weight = default_quant_conv.quant_weight()
    assert quant_weight.is_valid is True
    between_integers = quant_weight.set(value=quant_weight.value + quant_weight.scale / 2)
    out_of_range = quant_weight.set(value=2 * quant_weight.value)
    too_few_bits = quant_weight.set(bit_width=torch.tensor(7.0))
    unsigned = quant_weight.set(signed=False)
    for broken in (between_integers, out_of_range, too_few_bits, unsigned):
        assert broken.is_valid is False


def test_s1_12_scales_in_training(outputs: tuple[IntQuantTensor, IntQuantTensor]) -> None:
    out_tensor_0, out_tensor_1 = outputs
    assert out_tensor_0.is_valid
    assert out_tensor_1.is_valid
    assert_prints(out_tensor_0.scale, "S1-12", "scale0")
    assert_prints(out_tensor_1.scale, "S1-12", "scale1")
    # The row names a class of gradient; that there is one counts.
    assert out_tensor_0.scale.grad_fn is not None and out_tensor_1.scale.grad_fn is not None


def test_s1_13_scales_in_evaluation() -> None:
    quant_act = QuantIdentity(return_quant_tensor=True)
    quant_act(torch.randn(1, 2, 5, 5))
    quant_act.eval()
    out_tensor_0 = quant_act(torch.randn(1, 2, 5, 5))
    out_tensor_1 = quant_act(10 * torch.randn(1, 2, 5, 5))
    assert torch.equal(out_tensor_0.scale, out_tensor_1.scale)
    assert out_tensor_0.is_valid and out_tensor_1.is_valid
    assert (out_tensor_0 + out_tensor_1).is_valid


def test_s1_14_sum_in_training(outputs: tuple[IntQuantTensor, IntQuantTensor]) -> None:
    out_tensor_0, out_tensor_1 = outputs
    out_tensor = out_tensor_0 + out_tensor_1
    assert_prints(out_tensor.value, "S1-14", "value")
    assert_prints(out_tensor.scale, "S1-14", "scale")
    torch.testing.assert_close(out_tensor.scale, (out_tensor_0.scale + out_tensor_1.scale) / 2)
    assert out_tensor.zero_point == 0 and out_tensor.bit_width == 9
    # Gradients reach both scales, for which the sum in training is there.
    gradients = torch.autograd.grad(out_tensor.scale, [out_tensor_0.scale, out_tensor_1.scale])
    assert [gradient.item() for gradient in gradients] == [0.5, 0.5]


def test_s1_15_printed_text(outputs: tuple[IntQuantTensor, IntQuantTensor]) -> None:
    out_tensor = outputs[0] + outputs[1]
    scale = out_tensor.scale.item()
    value_text, _, fields_text = str(out_tensor).partition(", scale=")
    start = "IntQuantTensor(value=tensor([[[[-0.1106, 1.1945, -0.4972, -2.0968, 0.7175], [-2.5901"
    assert " ".join(value_text.split()).startswith(start) and "grad_fn=" in value_text
    assert fields_text == (
        f"{scale}, zero_point=0.0, bit_width=9.0, signed_t=True, training_t=True)"
    )
    assert_prints(scale, "S1-14", "scale")
    # An evaluated cell shows the representation, where the fields are tensors.
    assert repr(out_tensor).partition(", scale=")[2].startswith("tensor(0.0187, grad_fn=<")
    assert repr(out_tensor).endswith(
        "zero_point=tensor(0.), bit_width=tensor(9.), signed_t=tensor(True), "
        "training_t=tensor(True))"
    )


def test_s1_16_sum_of_different_scales_is_not_valid(
    outputs: tuple[IntQuantTensor, IntQuantTensor],
) -> None:
    out_tensor = outputs[0] + outputs[1]
    assert not out_tensor.is_valid


def test_s1_17_max_pooling_keeps_a_quant_tensor(quant_tensor: IntQuantTensor) -> None:
    out = torch.nn.functional.max_pool2d(quant_tensor, kernel_size=2, stride=2)
    assert type(out) is IntQuantTensor and out.shape == (1, 3, 2, 2)
    # The page break hides the second row of the first channel.
    printed_places = [0, 1, *range(4, 12)]
    assert_prints(out.value.flatten()[printed_places], "S1-17", "value[0,1,4..11]")
    assert out.is_valid and out.bit_width == 8
    assert torch.equal(out.scale, quant_tensor.scale)


def test_s1_18_tanh_gives_a_tensor(quant_tensor: IntQuantTensor) -> None:
    out = torch.tanh(quant_tensor)
    assert type(out) is Tensor and out.grad_fn is not None
    assert_prints(out, "S1-18", "tanh")
