"""Quantized convolutions: strided same padding, quantized outputs, scales, accumulators."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import brevitas.nn as qnn
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8WeightPerChannelFloat,
    Int16Bias,
    Uint8ActPerTensorFloat,
)

SIZE = 7


def batch(dims, size=SIZE, count=2):
    generator = torch.Generator().manual_seed(9)
    return torch.randn(count, 4, *[size] * dims, generator=generator)


def same_reference(layer, x, mode="constant"):
    """Pad so that there are `ceil(size / stride)` outputs, an odd zero at the end."""
    padding = []
    for dim in reversed(range(len(layer.kernel_size))):
        size, stride = x.shape[2 + dim], layer.stride[dim]
        reach = layer.dilation[dim] * (layer.kernel_size[dim] - 1) + 1
        total = max((-(-size // stride) - 1) * stride + reach - size, 0)
        padding += [total // 2, total - total // 2]
    x = F.pad(x, padding, mode=mode)
    function = (F.conv1d, F.conv2d, F.conv3d)[len(layer.kernel_size) - 1]
    return function(x, layer.weight, layer.bias, layer.stride, 0, layer.dilation, layer.groups)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4])
@pytest.mark.parametrize("stride", [2, 3])
def test_same_padding_with_a_stride(dims, kernel_size, stride):
    torch.manual_seed(0)
    layer_class = getattr(qnn, f"QuantConv{dims}d")
    layer = layer_class(4, 6, kernel_size, stride=stride, padding="same", weight_quant=None)
    assert layer.is_same_padded_strided
    for size in (6, 7):
        x = batch(dims, size)
        output = layer(x)
        assert output.shape[2:] == (-(-size // stride),) * dims
        torch.testing.assert_close(output, same_reference(layer, x))
        torch.testing.assert_close(layer(x[0]), output[0])


def test_same_padding_with_a_stride_reflects():
    layer = qnn.QuantConv2d(
        4, 6, 3, stride=2, padding="same", padding_mode="reflect", weight_quant=None
    )
    x = batch(2)
    torch.testing.assert_close(layer(x), same_reference(layer, x, "reflect"))


def test_same_padding_keeps_quant_tensors():
    layer = qnn.QuantConv2d(
        4,
        6,
        3,
        stride=2,
        padding="same",
        bias=False,
        input_quant=Int8ActPerTensorFloat,
        return_quant_tensor=True,
    )
    output = layer(batch(2))
    assert output.is_valid and output.shape == (2, 6, 4, 4)


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
def test_padding_modes_keep_quant_tensors(padding_mode):
    layer = qnn.QuantConv2d(
        4,
        6,
        3,
        padding=1,
        padding_mode=padding_mode,
        input_quant=Int8ActPerTensorFloat,
        return_quant_tensor=True,
    )
    output = layer(batch(2))
    assert output.is_valid
    plain = layer._conv_forward(
        layer.input_quant(batch(2)).value, layer.quant_weight().value, layer.bias
    )
    # The input quantizer still follows each batch: the same batch gives the same scale.
    torch.testing.assert_close(output.value, plain)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_scale_per_output_channel(dims, groups):
    layer_class = getattr(qnn, f"QuantConv{dims}d")
    layer = layer_class(4, 8, 3, groups=groups, weight_quant=Int8WeightPerChannelFloat)
    expected = layer.weight.abs().flatten(1).amax(1) / 127
    scale = layer.quant_weight().scale
    assert scale.shape == (8, *[1] * (dims + 1))
    torch.testing.assert_close(scale.flatten(), expected)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bias_quant", [None, Int16Bias])
def test_quant_tensor_output(dims, per_channel, bias_quant):
    layer = getattr(qnn, f"QuantConv{dims}d")(
        4,
        6,
        3,
        groups=2,
        weight_scaling_per_output_channel=per_channel,
        bias_quant=bias_quant,
        input_quant=Int8ActPerTensorFloat,
        return_quant_tensor=True,
    )
    output = layer(batch(dims))
    assert output.is_valid
    assert output.scale.dim() == dims + 2
    scale = layer.quant_weight().scale.flatten() * layer.input_quant(batch(dims)).scale
    torch.testing.assert_close(output.scale.flatten(), scale)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_accumulator_holds_the_worst_case(groups):
    layer = qnn.QuantConv2d(
        4,
        4,
        3,
        groups=groups,
        bias=False,
        input_quant=Uint8ActPerTensorFloat,
        weight_bit_width=4,
        return_quant_tensor=True,
    )
    with torch.no_grad():
        layer.weight.fill_(1.0)
    output = layer(torch.ones(1, 4, 3, 3))
    assert output.is_valid
    terms = 9 * 4 // groups
    assert float(output.int().max()) == terms * 7 * 255
    # Not one bit more than unsigned products of these widths need.
    assert output.bit_width == (terms * (2**8 - 1) * (2**4 - 1)).bit_length()


def test_depthwise_is_separable():
    assert qnn.QuantConv2d(4, 4, 3, groups=4).channelwise_separable
    assert not qnn.QuantConv2d(4, 4, 3, groups=2).channelwise_separable
    assert qnn.QuantConv2d(4, 4, 3, groups=4).per_elem_ops == 18


def test_the_older_positional_bias_is_explained():
    with pytest.raises(TypeError, match="padding_mode=False.*pass both by keyword"):
        qnn.QuantConv2d(2, 3, 3, 1, 0, 1, 1, False)
