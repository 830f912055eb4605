"""Quantized transposed convolutions: `output_size`, scales of groups, accumulators."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import brevitas.nn as qnn
from brevitas.quant import Int8ActPerTensorFloat, Int16Bias, Uint8ActPerTensorFloat


def pair(dims, **keywords):
    arguments = {"in_channels": 4, "out_channels": 6, "kernel_size": 3, **keywords}
    torch.manual_seed(0)
    layer = getattr(qnn, f"QuantConvTranspose{dims}d")(**arguments, weight_quant=None)
    torch.manual_seed(0)
    return layer, getattr(nn, f"ConvTranspose{dims}d")(**arguments)


def batch(dims, size=5):
    generator = torch.Generator().manual_seed(9)
    return torch.randn(2, 4, *[size] * dims, generator=generator)


def test_impossible_output_size_leaves_no_trace():
    layer, twin = pair(2, stride=2)
    with pytest.raises(ValueError, match="output size"):
        layer(batch(2), output_size=[99, 99])
    assert torch.equal(layer(batch(2)), twin(batch(2)))


def test_output_size_of_a_quant_tensor():
    layer = qnn.QuantConvTranspose2d(
        4, 6, 3, stride=2, input_quant=Int8ActPerTensorFloat, return_quant_tensor=True
    )
    output = layer(batch(2), output_size=[12, 12])
    assert output.is_valid and output.shape[2:] == (12, 12)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_scale_per_output_channel(dims, groups):
    """The weight is `[in, out / groups, ...]`: groups share the scale of their channels."""
    layer = getattr(qnn, f"QuantConvTranspose{dims}d")(
        4,
        6,
        3,
        groups=groups,
        weight_scaling_per_output_channel=True,
        bias_quant=Int16Bias,
        input_quant=Int8ActPerTensorFloat,
        return_quant_tensor=True,
    )
    expected = layer.weight.abs().transpose(0, 1).flatten(1).amax(1) / 127
    weight_scale = layer.quant_weight().scale
    assert weight_scale.shape == (1, 6 // groups, *[1] * dims)
    torch.testing.assert_close(weight_scale.flatten(), expected)
    output = layer(batch(dims))
    assert output.is_valid
    assert output.scale.shape == (1, 6, *[1] * dims)
    scale = expected.repeat(groups) * layer.input_quant(batch(dims)).scale
    torch.testing.assert_close(output.scale.flatten(), scale)


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (3, 1), (4, 1), (2, 2), (1, 2)])
def test_accumulator_holds_the_worst_case(stride, dilation):
    layer = qnn.QuantConvTranspose1d(
        4,
        2,
        3,
        stride=stride,
        dilation=dilation,
        bias=False,
        input_quant=Uint8ActPerTensorFloat,
        weight_bit_width=4,
        return_quant_tensor=True,
    )
    with torch.no_grad():
        layer.weight.fill_(1.0)
    output = layer(torch.ones(1, 4, 9))
    assert output.is_valid
    largest = int(output.int().max())
    taps = largest // (7 * 255 * 4)
    assert largest == taps * 7 * 255 * 4
    assert output.bit_width == (taps * 4 * 15 * 255).bit_length()


def test_descriptions():
    layer = qnn.QuantConvTranspose2d(4, 6, 3, groups=2, stride=2)
    assert layer.output_channel_dim == 1
    assert not layer.channelwise_separable
    # Each output is a sum of `in * k * k / groups / stride**2` products on average.
    assert layer.per_elem_ops == 2 * 4 * 9 // 2 // 4
