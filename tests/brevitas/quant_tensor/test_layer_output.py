"""Tests that the output of a layer holds what an integer accumulator holds."""

from __future__ import annotations

import doctest

import pytest
import torch
import torch.nn.functional as F

from brevitas.quant_tensor import IntQuantTensor
from brevitas.quant_tensor import _layer_output as module
from quant_tensors import make

# function, input shape, weight shape, arguments after the bias
LAYERS = {
    "linear": (F.linear, (3, 5), (4, 5), {}),
    "linear of a sequence": (F.linear, (2, 3, 5), (4, 5), {}),
    "linear of a vector": (F.linear, (5,), (4, 5), {}),
    "conv1d": (F.conv1d, (2, 4, 8), (6, 4, 3), {"padding": 1}),
    "conv2d": (F.conv2d, (2, 4, 6, 6), (6, 4, 3, 3), {}),
    "conv2d padded": (F.conv2d, (2, 4, 6, 6), (6, 4, 3, 3), {"padding": 1, "stride": 2}),
    "conv2d same": (F.conv2d, (2, 4, 6, 6), (6, 4, 3, 3), {"padding": "same"}),
    "conv2d unbatched": (F.conv2d, (4, 6, 6), (6, 4, 3, 3), {}),
    "conv2d grouped": (F.conv2d, (2, 4, 6, 6), (8, 2, 3, 3), {"groups": 2, "dilation": 2}),
    "conv3d": (F.conv3d, (1, 2, 4, 4, 4), (3, 2, 2, 2, 2), {"padding": 1}),
    "conv_transpose1d": (F.conv_transpose1d, (2, 4, 8), (4, 6, 3), {"stride": 2}),
    "conv_transpose2d": (
        F.conv_transpose2d,
        (2, 4, 5, 5),
        (4, 3, 3, 3),
        {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2},
    ),
    "conv_transpose3d": (F.conv_transpose3d, (1, 2, 3, 3, 3), (2, 3, 2, 2, 2), {}),
}


def out_channels(function, weight_shape, arguments):
    transposed = "transpose" in str(function)
    return weight_shape[1] * arguments.get("groups", 1) if transposed else weight_shape[0]


def weight_scale(function, weight_shape, per_channel):
    if not per_channel:
        return 0.02
    channel = 1 if "transpose" in str(function) else 0
    shape = [1] * len(weight_shape)
    shape[channel] = weight_shape[channel]
    return (torch.arange(weight_shape[channel]) + 1.0).reshape(shape) / 128


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("signed_input", [False, True])
def test_output_holds_the_accumulator(layer, per_channel, signed_input):
    function, shape, weight_shape, arguments = layer
    x, i = make(shape, 0.05, 0.0, 8, signed_input)
    scale = weight_scale(function, weight_shape, per_channel)
    w, j = make(weight_shape, scale, 0.0, 6, seed=1, narrow=True)
    y = function(x, w, **arguments)
    assert type(y) is IntQuantTensor and y.is_valid and y.signed
    assert y.scale.dim() == y.value.dim() and y.zero_point.tolist() == [0.0]
    assert torch.equal(y.int().double(), function(i, j, **arguments))


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
@pytest.mark.parametrize("zero_point", [7.0, 2.375])
@pytest.mark.parametrize("weight_zero_point", [0.0, 5.0])
def test_zero_points_of_the_operands(layer, zero_point, weight_zero_point):
    function, shape, weight_shape, arguments = layer
    x, i = make(shape, 0.05, zero_point, 8, False)
    w, j = make(weight_shape, 0.02, weight_zero_point, 6, False, seed=1)
    y = function(x, w, **arguments)
    assert y.is_valid
    # A padded zero is the integer z_x of the input: here it is left out of the sum, and the zero
    # point of the output at that position holds only the taps that were summed.
    assert torch.equal(y.int().double(), function(i, j - weight_zero_point, **arguments))


def test_zero_point_per_input_channel():
    x, i = make((2, 4, 6, 6), 0.05, torch.arange(4.0).reshape(1, 4, 1, 1), 8)
    w, j = make((6, 4, 3, 3), 0.02, 0.0, 6, seed=1)
    y = F.conv2d(x, w, padding=1)
    assert y.is_valid
    assert torch.equal(y.int().double(), F.conv2d(i, j, padding=1))


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
def test_float_bias_is_a_zero_point(layer):
    function, shape, weight_shape, arguments = layer
    x, i = make(shape, 0.05)
    w, j = make(weight_shape, 0.02, 0.0, 6, seed=1)
    bias = torch.randn(out_channels(function, weight_shape, arguments))
    y = function(x, w, bias, **arguments)
    assert y.is_valid and y.bit_width == function(x, w, **arguments).bit_width
    assert torch.equal(y.int().double(), function(i, j, **arguments))
    torch.testing.assert_close(y.value, function(x.value, w.value, bias, **arguments))


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
@pytest.mark.parametrize("bias_zero_point", [0.0, 3.0])
def test_quantized_bias_adds_its_integers(layer, bias_zero_point):
    function, shape, weight_shape, arguments = layer
    x, i = make(shape, 0.05)
    w, j = make(weight_shape, 0.02, 0.0, 6, seed=1)
    channels = out_channels(function, weight_shape, arguments)
    bias, k = make((channels,), 0.05 * 0.02, bias_zero_point, 16, seed=2)
    y = function(x, w, bias, **arguments)
    plain = function(x, w, **arguments)
    assert y.is_valid and y.bit_width == max(plain.bit_width, 16) + 1
    assert torch.equal(y.int().double(), function(i, j, k, **arguments))


def test_quantized_bias_on_another_scale_counts_as_float():
    x, i = make((3, 5), 0.05)
    w, j = make((4, 5), 0.02, 0.0, 6, seed=1)
    bias, _ = make((4,), 0.0123, 0.0, 8, seed=2)
    y = F.linear(x, w, bias)
    assert y.is_valid and y.zero_point.shape == (1, 4)
    assert torch.equal(y.int().double(), F.linear(i, j))


def test_scales_of_rows_and_of_columns():
    x, i = make((3, 5), torch.tensor([[0.1], [0.2], [0.4]]))
    w, j = make((4, 5), torch.tensor([[0.5], [1.0], [2.0], [4.0]]), 0.0, 6, seed=1)
    y = F.linear(x, w)
    assert y.scale.shape == (3, 4) and y.is_valid
    assert torch.equal(y.int().double(), F.linear(i, j))


def test_fields_without_computing_the_layer():
    x, _ = make((3, 5), 0.05, training=True)
    w, _ = make((4, 5), 0.02, 0.0, 6, seed=1)
    fields = module.layer_output(F.linear, x, w, None)
    y = F.linear(x, w)
    assert fields.training and fields.signed and fields.bit_width == y.bit_width
    assert torch.equal(fields.scale, y.scale)


def test_compiled_fields_agree():
    x, i = make((2, 4, 6, 6), 0.05, 3.0)
    w, j = make((6, 4, 3, 3), 0.02, 0.0, 6, seed=1)
    bias, k = make((6,), 0.05 * 0.02, 0.0, 16, seed=2)
    layer = torch.compile(lambda *a: F.conv2d(*a, padding=1), backend="eager", fullgraph=True)
    y = layer(x, w, bias)
    assert y.is_valid
    assert torch.equal(y.int().double(), F.conv2d(i, j, k, padding=1))


def test_a_zero_point_of_zero_is_known_in_a_compiled_graph():
    x, _ = make((2, 4, 6, 6))
    w, _ = make((6, 4, 3, 3), 0.02, 0.0, 6, seed=1)
    layer = torch.compile(lambda *a: F.conv2d(*a, padding=1), backend="eager", fullgraph=True)
    # A number is a constant of the graph, a tensor is not.
    assert layer(F.relu(x).reshape(x.shape).set(scale=0.1), w).zero_point.shape == (1,)
    assert layer(x.set(zero_point=torch.zeros(())), w).zero_point.shape == (1, 6, 6, 6)


def test_doctests():
    names = {"torch": torch, "F": F}
    assert doctest.testmod(module, extraglobs=names).failed == 0


@pytest.mark.parametrize(
    ("fn", "shape", "groups", "expected"),
    [
        (F.conv2d, (4, 4, 3, 3), 1, False),  # sums over channels of different scales
        (F.conv2d, (4, 2, 3, 3), 2, False),
        (F.conv2d, (4, 1, 3, 3), 4, True),  # one scale for each output
        (F.conv2d, (8, 1, 3, 3), 4, False),  # two outputs for each scale: no field of one shape
        (F.conv_transpose2d, (4, 4, 3, 3), 1, False),
        (F.conv_transpose2d, (4, 1, 3, 3), 4, True),
        (F.conv_transpose2d, (4, 2, 3, 3), 4, False),
    ],
)
def test_only_a_depthwise_layer_keeps_a_scale_per_input_channel(fn, shape, groups, expected):
    scale = torch.tensor([0.1, 0.2, 0.3, 0.4]).reshape(1, 4, 1, 1)
    (x, _), (weight, _) = make((2, 4, 6, 6), scale), make(shape, 0.1)
    output = fn(x, weight, groups=groups)
    assert torch.equal(getattr(output, "value", output), fn(x.value, weight.value, groups=groups))
    assert isinstance(output, IntQuantTensor) is expected
    assert not expected or output.is_valid
