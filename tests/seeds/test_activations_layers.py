"""An overview of quantized activations: layers on their own, next to one another, switched off.

The tests follow the tutorial's cells and share what its first cells make: `inp`, `out_tensor`.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from brevitas.nn import QuantConv2d, QuantIdentity, QuantReLU, QuantSigmoid
from brevitas.quant.scaled_int import Int8ActPerTensorFloat
from brevitas.quant.shifted_scaled_int import ShiftedUint8ActPerTensorFloat
from brevitas.quant_tensor import IntQuantTensor
from seeds.facts import assert_prints


def make_conv(**quantizers: object) -> QuantConv2d:
    """The convolution of cells 2, 3, 13 and 14: the same seed gives the same weights each time."""
    torch.manual_seed(0)
    return QuantConv2d(in_channels=2, out_channels=3, kernel_size=(3, 3), **quantizers)


@pytest.fixture
def inp() -> Tensor:
    """The input of cell 3, drawn after the weights of its convolution, and used from there on."""
    make_conv()
    return torch.randn(1, 2, 5, 5)


@pytest.fixture
def out_tensor(inp: Tensor) -> IntQuantTensor:
    """The quantized input of cell 5."""
    return_quant_identity = QuantIdentity(return_quant_tensor=True)
    return return_quant_identity(inp)


def test_s2_01_an_output_quantizer_is_a_quant_identity_after_the_layer(inp: Tensor) -> None:
    output_quant_conv = make_conv(output_quant=Int8ActPerTensorFloat)
    default_quant_conv = make_conv()
    output_identity_quant = QuantIdentity()

    out_tensor1 = output_quant_conv(inp)
    out_tensor2 = output_identity_quant(default_quant_conv(inp))

    assert out_tensor1.isclose(out_tensor2).all().item()
    assert not out_tensor1.isclose(default_quant_conv(inp)).all().item()


def test_s2_02_an_input_quantizer_is_a_quant_identity_before_the_layer(inp: Tensor) -> None:
    input_output_quant_conv = make_conv(
        input_quant=Int8ActPerTensorFloat, output_quant=Int8ActPerTensorFloat
    )
    default_quant_conv = make_conv()
    input_identity_quant = QuantIdentity()
    output_identity_quant = QuantIdentity()

    out_tensor1 = input_output_quant_conv(inp)
    out_tensor2 = output_identity_quant(default_quant_conv(input_identity_quant(inp)))

    assert out_tensor1.isclose(out_tensor2).all().item()
    assert not out_tensor1.isclose(output_identity_quant(default_quant_conv(inp))).all().item()


def test_s2_03_a_disabled_quant_identity_is_the_identity(inp: Tensor) -> None:
    disabled_quant_identity = QuantIdentity(act_quant=None)
    assert (inp == disabled_quant_identity(inp)).all().item()


def test_s2_04_a_quant_identity_returns_a_valid_quant_tensor(inp: Tensor) -> None:
    return_quant_identity = QuantIdentity(return_quant_tensor=True)
    out_tensor = return_quant_identity(inp)

    assert isinstance(out_tensor, IntQuantTensor)
    assert_prints(out_tensor.value.flatten()[45:], "S2-04", "value[45..49]")
    assert_prints(out_tensor.scale, "S2-04", "scale")
    assert out_tensor.is_valid
    text = repr(out_tensor)  # of the names of gradient functions only their presence counts
    assert text.startswith("IntQuantTensor(value=tensor([[[[")
    assert "scale=tensor(0.0190, grad_fn=<" in text
    assert out_tensor.value.grad_fn is not None


def test_s2_05_a_disabled_quant_identity_strips_the_metadata(out_tensor: IntQuantTensor) -> None:
    disabled_quant_identity = QuantIdentity(act_quant=None)
    out_torch_tensor = disabled_quant_identity(out_tensor)

    assert type(out_torch_tensor) is Tensor
    assert_prints(out_torch_tensor, "S2-05", "value")
    assert out_torch_tensor.grad_fn is not None


def test_s2_06_a_disabled_quant_identity_can_keep_the_metadata(out_tensor: IntQuantTensor) -> None:
    return_disabled_quant_identity = QuantIdentity(act_quant=None, return_quant_tensor=True)
    identity_out_tensor = return_disabled_quant_identity(out_tensor)

    assert isinstance(identity_out_tensor, IntQuantTensor)
    assert_prints(identity_out_tensor.value, "S2-06", "value")
    assert_prints(identity_out_tensor.scale, "S2-06", "scale")
    assert identity_out_tensor.value.grad_fn is not None
    assert identity_out_tensor.bit_width == 8
    assert identity_out_tensor.signed
    assert torch.equal(identity_out_tensor.int(), out_tensor.int())


def test_s2_07_a_quant_relu_is_a_relu_and_unsigned_8_bits(inp: Tensor) -> None:
    return_quant_relu = QuantReLU(return_quant_tensor=True)
    out_tensor = return_quant_relu(inp)

    assert_prints(out_tensor.value, "S2-07", "value")
    assert out_tensor.value.grad_fn is not None
    assert not out_tensor.signed
    assert out_tensor.bit_width == 8
    assert out_tensor.zero_point == 0
    assert out_tensor.int().max() == 255


def test_s2_08_a_disabled_quant_relu_keeps_the_metadata(out_tensor: IntQuantTensor) -> None:
    return_disabled_quant_relu = QuantReLU(act_quant=None, return_quant_tensor=True)
    relu_out_tensor = return_disabled_quant_relu(out_tensor)

    assert relu_out_tensor.is_valid
    assert relu_out_tensor.scale == out_tensor.scale
    assert relu_out_tensor.zero_point == out_tensor.zero_point
    assert relu_out_tensor.bit_width == out_tensor.bit_width
    assert torch.equal(relu_out_tensor.value, torch.relu(out_tensor.value))


def test_s2_09_a_disabled_quant_sigmoid_cannot_keep_the_metadata(
    out_tensor: IntQuantTensor,
) -> None:
    return_disabled_quant_sigmoid = QuantSigmoid(act_quant=None, return_quant_tensor=True)

    message = "^QuantLayer is not correctly configured, check if warnings were raised"
    with pytest.raises(AssertionError, match=message) as caught:
        return_disabled_quant_sigmoid(out_tensor)
    assert isinstance(caught.value, RuntimeError)


def test_s2_10_the_non_linearity_acts_on_the_dequantized_value(inp: Tensor) -> None:
    shifted_quant_identity = QuantIdentity(
        act_quant=ShiftedUint8ActPerTensorFloat, return_quant_tensor=True
    )
    return_disabled_quant_relu = QuantReLU(act_quant=None, return_quant_tensor=True)
    out_tensor = return_disabled_quant_relu(shifted_quant_identity(inp))

    assert_prints(out_tensor.value, "S2-10", "value")
    assert out_tensor.value.grad_fn is not None
    assert not out_tensor.signed
    # The zero of the real numbers is this integer: ReLU has cut off what lies below it.
    assert out_tensor.int().min() == out_tensor.zero_point > 0


def test_s2_11_integers_of_a_shifted_quantizer_are_not_negative(inp: Tensor) -> None:
    shifted_quant_identity = QuantIdentity(
        act_quant=ShiftedUint8ActPerTensorFloat, return_quant_tensor=True
    )
    out_tensor = shifted_quant_identity(inp)

    assert out_tensor.value.min() < 0
    assert not out_tensor.signed
    assert out_tensor.zero_point > 0
    assert out_tensor.int().dtype == torch.uint8
    assert out_tensor.int().min() == 0
    assert out_tensor.int().max() == 255


def test_s2_12_a_relu_after_a_signed_output_quantizer(inp: Tensor) -> None:
    output_quant_conv = make_conv(output_quant=Int8ActPerTensorFloat)
    out_tensor = torch.relu(output_quant_conv(inp))

    assert_prints(out_tensor, "S2-12", "out")
    assert out_tensor.grad_fn is not None


def test_s2_13_an_unsigned_quantizer_after_the_relu_wastes_no_bit(inp: Tensor) -> None:
    default_quant_conv = make_conv()
    default_quant_relu = QuantReLU()
    out_tensor = default_quant_relu(default_quant_conv(inp))

    assert_prints(out_tensor, "S2-13", "out")
    assert out_tensor.grad_fn is not None
