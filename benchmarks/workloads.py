"""The networks that are measured, each built twice: in floating point, and quantized.

They are written with the interface that all releases of Brevitas share, so that an installed peer
runs the same lines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import brevitas.nn as qnn
from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerChannelFloat

WIDTH, STAGES = 32, 7


class FloatStage(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1, self.relu1 = nn.BatchNorm2d(width), nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(width), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(y)) + x)


class QuantStage(nn.Module):
    """The same block with weights per channel, quantized activations and a sum on one grid."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (_quant_conv(width, width) for _ in range(2))
        self.bn1, self.relu1 = nn.BatchNorm2d(width), qnn.QuantReLU()
        self.bn2, self.relu2 = nn.BatchNorm2d(width), qnn.QuantReLU()
        self.shared = qnn.QuantIdentity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.shared(self.bn2(self.conv2(y))) + self.shared(x))


def _quant_conv(channels: int, width: int) -> nn.Module:
    quantizer = {"weight_quant": Int8WeightPerChannelFloat}
    return qnn.QuantConv2d(channels, width, 3, padding=1, bias=False, **quantizer)


def float_cnn() -> nn.Module:
    stem = nn.Conv2d(3, WIDTH, 3, padding=1, bias=False)
    stages = [FloatStage(WIDTH) for _ in range(STAGES)]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 10))
    return nn.Sequential(stem, nn.BatchNorm2d(WIDTH), nn.ReLU(), *stages, *head)


def quant_cnn() -> nn.Module:
    stages = [QuantStage(WIDTH) for _ in range(STAGES)]
    classifier = qnn.QuantLinear(WIDTH, 10, weight_quant=Int8WeightPerChannelFloat)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), classifier)
    stem = _quant_conv(3, WIDTH)
    return nn.Sequential(stem, nn.BatchNorm2d(WIDTH), qnn.QuantReLU(), *stages, *head)


def float_mlp() -> nn.Module:
    layers = [layer for _ in range(6) for layer in (nn.Linear(1024, 1024), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def quant_mlp() -> nn.Module:
    def linear() -> nn.Module:
        return qnn.QuantLinear(1024, 1024, input_quant=Int8ActPerTensorFloat)

    layers = [layer for _ in range(6) for layer in (linear(), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


class FirstOutput(nn.Module):
    """A recurrent network that returns its outputs alone."""

    def __init__(self, recurrent: nn.Module) -> None:
        super().__init__()
        self.recurrent = recurrent

    def forward(self, x: Tensor) -> Any:
        return self.recurrent(x)[0]


def float_lstm() -> nn.Module:
    return FirstOutput(nn.LSTM(64, 128, num_layers=2))


def quant_lstm() -> nn.Module:
    return FirstOutput(qnn.QuantLSTM(64, 128, num_layers=2))


class Workload(NamedTuple):
    """A network in two versions, and the shape of its input."""

    float_model: Callable[[], nn.Module]
    quant_model: Callable[[], nn.Module]
    shape: tuple[int, ...]

    def data(self) -> Tensor:
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(0))

    def build(self, quantized: bool) -> nn.Module:
        torch.manual_seed(0)
        return self.quant_model() if quantized else self.float_model()


WORKLOADS = {
    "CNN": Workload(float_cnn, quant_cnn, (32, 3, 32, 32)),
    "MLP": Workload(float_mlp, quant_mlp, (256, 1024)),
    "LSTM": Workload(float_lstm, quant_lstm, (50, 16, 64)),
}


def end_statistics(model: nn.Module, x: Tensor) -> None:
    """Let every quantizer learn from now on: one step, then the phase of statistics is over."""
    model.train()
    model(x)
    for module in model.modules():
        if hasattr(module, "init_scale"):
            module.init_scale()
