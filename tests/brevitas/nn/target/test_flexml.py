"""Layers as FlexML accelerators compute them."""

from __future__ import annotations

import pytest
import torch

from brevitas.nn.target.flexml import FlexMLQuantAvgPool2d, FlexMLQuantLeakyReLU
from quant_tensors import make


def test_leaky_relu_is_one_of_its_quantized_parts():
    layer = FlexMLQuantLeakyReLU(0.1)
    x = torch.linspace(-2, 2, 41)
    layer(x)
    y = layer.eval()(x)
    quantized = layer.input_quant(x)
    slope = layer.alpha_quant(torch.tensor(0.1))
    expected = layer.output_quant(torch.where(quantized >= 0, quantized, quantized * slope))
    assert y.is_valid and y.bit_width == 8
    assert torch.equal(y.value, expected.value)
    # Powers of two; the recorded library gives these values.
    assert y.scale == 2.0**-6
    recorded = [-0.203125, -0.15625, -0.09375, -0.046875, 0.0, 0.5, 1.0, 1.5, 1.984375]
    assert torch.equal(layer(torch.linspace(-2, 2, 9)).value, torch.tensor(recorded))


def test_layers_do_not_share_their_default_quantizers():
    first, second = FlexMLQuantLeakyReLU(0.1), FlexMLQuantLeakyReLU(0.2)
    assert first.output_quant is not second.output_quant
    assert first.is_quant_act_signed and first.act_quant is first.output_quant.act_quant


# Bits of the output for inputs of 8 bits, and scale of the reciprocal, as recorded.
@pytest.mark.parametrize(
    ("kernel", "bits", "scale"), [(2, 17, 1 / 512), (3, 19, 1 / 1152), ((2, 3), 18, 1 / 768)]
)
def test_pool_multiplies_by_a_quantized_reciprocal(kernel, bits, scale):
    layer = FlexMLQuantAvgPool2d(kernel)
    x, _ = make((2, 3, 6, 6), 0.5, bit_width=8)
    y = layer(x)
    assert y.is_valid and y.bit_width == bits
    assert layer.quantized_div_int_value == 127
    assert layer.quantized_div_scale == pytest.approx(scale, rel=1e-6)
    sums = torch.nn.functional.avg_pool2d(x.value / 0.5, kernel, divisor_override=1)
    assert torch.equal(y.int(float_datatype=True), sums * 127)
    torch.testing.assert_close(y.scale, torch.tensor(0.5 * scale))


@pytest.mark.parametrize("extreme", [-128, 127])
def test_worst_case_fits_the_bits(extreme):
    x, _ = make((1, 1, 6, 6), 1.0, bit_width=8)
    y = FlexMLQuantAvgPool2d(3, stride=1, padding=1)(x.set(value=torch.full_like(x.value, extreme)))
    assert y.is_valid


def test_plain_tensors_are_averaged():
    layer, x = FlexMLQuantAvgPool2d(2, return_quant_tensor=False), torch.randn(1, 2, 4, 4)
    assert torch.equal(layer(x), torch.nn.functional.avg_pool2d(x, 2))
