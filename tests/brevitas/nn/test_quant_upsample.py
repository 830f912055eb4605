"""Upsampling to integers of the same grid."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import brevitas.nn as qnn
from quant_tensors import make

ROWS = {
    "nearest": (qnn.QuantUpsample, nn.Upsample, {"scale_factor": 2}),
    "nearest-exact": (qnn.QuantUpsample, nn.Upsample, {"size": (5, 7), "mode": "nearest-exact"}),
    "bilinear": (qnn.QuantUpsample, nn.Upsample, {"scale_factor": 3, "mode": "bilinear"}),
    "corners": (
        qnn.QuantUpsample,
        nn.Upsample,
        {"scale_factor": 2, "mode": "bilinear", "align_corners": True},
    ),
    "bicubic": (qnn.QuantUpsample, nn.Upsample, {"scale_factor": 2, "mode": "bicubic"}),
    "nearest 2d": (qnn.QuantUpsamplingNearest2d, nn.UpsamplingNearest2d, {"scale_factor": 2}),
    "bilinear 2d": (qnn.QuantUpsamplingBilinear2d, nn.UpsamplingBilinear2d, {"size": (7, 9)}),
}
every_row = pytest.mark.parametrize("name", ROWS)


def built(name):
    quantized, twin, keywords = ROWS[name]
    return quantized(**keywords), twin(**keywords)


@every_row
def test_integers_of_the_same_grid(name):
    layer, twin = built(name)
    x, _ = make((2, 3, 4, 4), 0.25, bit_width=6)
    y, expected = layer(x), twin(x.value) / 0.25
    assert y.is_valid and y.scale == 0.25 and y.bit_width == 6
    limits = (-32, 31)
    assert torch.equal(y.int(float_datatype=True), expected.round().clamp(*limits))


@every_row
def test_zero_point_and_scale_per_channel(name):
    layer, twin = built(name)
    scale = torch.tensor([0.5, 0.25, 1.0]).reshape(1, 3, 1, 1)
    x, _ = make((2, 3, 4, 4), scale, zero_point=3.0, bit_width=6)
    y = layer(x)
    integers = (twin(x.value) / scale + 3).round().clamp(-32, 31)
    assert y.is_valid and torch.equal(y.value, (integers - 3) * scale)


@every_row
def test_gradient_is_that_of_the_interpolation(name):
    layer, twin = built(name)
    x, _ = make((2, 3, 4, 4), 0.25, bit_width=6)
    quantized, plain = (x.value.clone().requires_grad_() for _ in range(2))
    layer(x.set(value=quantized)).value.sum().backward()
    twin(plain).sum().backward()
    torch.testing.assert_close(quantized.grad, plain.grad)


def test_overshoot_clamps():
    x, _ = make((1, 1, 1, 4), 1.0, bit_width=4)
    x = x.set(value=torch.tensor([[[[7.0, 7.0, -8.0, -8.0]]]]))
    raw = F.interpolate(x.value, scale_factor=2, mode="bicubic")
    assert raw.max().round() > 7
    assert qnn.QuantUpsample(scale_factor=2, mode="bicubic")(x).is_valid
