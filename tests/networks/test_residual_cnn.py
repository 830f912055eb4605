"""A residual network of quantized layers learns digits as well as its float twin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import brevitas.nn as qnn
from brevitas.quant import Int8WeightPerChannelFloat, Uint8ActPerTensorFloat
from networks.digits import accuracy, digits, quantized_from, train

# Points of accuracy that a quantized network may lie below its float twin.
ALLOWED = 1.5


class Add(nn.Module):
    """The sum of two tensors, as a layer."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


@dataclass(frozen=True)
class Layers:
    """What differs between the float and the quantized network."""

    input: Callable[..., nn.Module] = nn.Identity
    conv: Callable[..., nn.Module] = nn.Conv2d
    relu: Callable[..., nn.Module] = nn.ReLU
    add: Callable[..., nn.Module] = Add
    classifier: Callable[..., nn.Module] = nn.Linear


def quantized(bits: int) -> Layers:
    weights = {"weight_quant": Int8WeightPerChannelFloat, "weight_bit_width": bits}
    return Layers(
        input=partial(qnn.QuantIdentity, act_quant=Uint8ActPerTensorFloat),
        conv=partial(qnn.QuantConv2d, **weights),
        relu=partial(qnn.QuantReLU, bit_width=bits),
        add=partial(qnn.QuantEltwiseAdd, input_bit_width=8, output_quant=None),
        classifier=partial(qnn.QuantLinear, **{**weights, "weight_bit_width": 8}),
    )


class Block(nn.Module):
    def __init__(self, layers: Layers, channels: int) -> None:
        super().__init__()
        conv = partial(layers.conv, channels, channels, 3, padding=1, bias=False)
        self.conv1, self.bn1, self.relu1 = conv(), nn.BatchNorm2d(channels), layers.relu()
        self.conv2, self.bn2, self.relu2 = conv(), nn.BatchNorm2d(channels), layers.relu()
        self.add = layers.add()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.add(self.bn2(self.conv2(y)), x))


def residual_cnn(layers: Layers, width: int = 12) -> nn.Module:
    return nn.Sequential(
        layers.input(),
        layers.conv(1, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        layers.relu(),
        Block(layers, width),
        layers.conv(width, 2 * width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        layers.relu(),
        Block(layers, 2 * width),
        nn.Flatten(),
        layers.classifier(2 * width * 16, 10),
    )


@pytest.fixture(scope="module")
def float_twin() -> nn.Module:
    torch.manual_seed(0)
    return train(residual_cnn(Layers()), epochs=10, learning_rate=0.01)


@pytest.mark.parametrize("bits", [8, 4])
def test_accuracy_is_that_of_the_float_twin(float_twin: nn.Module, bits: int) -> None:
    model = quantized_from(lambda: residual_cnn(quantized(bits)), float_twin)
    train(model, epochs=6, learning_rate=0.003)
    reference, found = accuracy(float_twin), accuracy(model)
    assert reference > 97
    assert found >= reference - ALLOWED
    for layer in model.modules():
        if isinstance(layer, qnn.QuantConv2d):
            assert layer.quant_weight().bit_width == bits and layer.quant_weight().is_valid
    assert torch.equal(model(digits()[2][:8]), model(digits()[2][:8]))
