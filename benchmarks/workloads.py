"""The networks that are measured, put together from the layers of any library.

Nothing here knows a library of quantization: `Layers` says what one has to offer, `FloatLayers` are
PyTorch's own, and `benchmarks/libraries/` has the others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

WIDTH, STAGES = 32, 7
LSTM_SIZES = {"input_size": 64, "hidden_size": 128, "num_layers": 2}


class Layers(ABC):
    """The layers that the networks are made of; a library that lacks one raises `Unsupported`."""

    @abstractmethod
    def conv(self, inputs: int, outputs: int) -> nn.Module:
        """A convolution of 3x3, weights quantized per channel."""

    @abstractmethod
    def classifier(self, inputs: int, outputs: int) -> nn.Module:
        """A linear layer, weights quantized per channel."""

    @abstractmethod
    def linear(self, inputs: int, outputs: int) -> nn.Module:
        """A linear layer as it is by default."""

    @abstractmethod
    def linear_with_input(self, inputs: int, outputs: int) -> nn.Module:
        """A linear layer that quantizes its input, too."""

    @abstractmethod
    def relu(self) -> nn.Module:
        """A ReLU with a quantized output."""

    @abstractmethod
    def addition(self) -> nn.Module:
        """A sum of two tensors on one grid."""

    @abstractmethod
    def lstm(self) -> nn.Module:
        """A recurrent network with `LSTM_SIZES`."""

    @abstractmethod
    def percentile(self) -> nn.Module:
        """The percentile of magnitudes; in floating point, their maximum."""


class Sum(nn.Module):
    """The sum of two tensors."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Largest(nn.Module):
    """The largest magnitude."""

    def forward(self, x: Tensor) -> Tensor:
        return x.abs().max()


class FloatLayers(Layers):
    """The float twins."""

    def conv(self, inputs: int, outputs: int) -> nn.Module:
        return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)

    def classifier(self, inputs: int, outputs: int) -> nn.Module:
        return nn.Linear(inputs, outputs)

    def linear(self, inputs: int, outputs: int) -> nn.Module:
        return nn.Linear(inputs, outputs)

    def linear_with_input(self, inputs: int, outputs: int) -> nn.Module:
        return nn.Linear(inputs, outputs)

    def relu(self) -> nn.Module:
        return nn.ReLU()

    def addition(self) -> nn.Module:
        return Sum()

    def lstm(self) -> nn.Module:
        return nn.LSTM(**LSTM_SIZES)

    def percentile(self) -> nn.Module:
        return Largest()


class Stage(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, layers: Layers, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (layers.conv(width, width) for _ in range(2))
        self.bn1, self.relu1 = nn.BatchNorm2d(width), layers.relu()
        self.bn2, self.relu2 = nn.BatchNorm2d(width), layers.relu()
        self.addition = layers.addition()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.addition(self.bn2(self.conv2(y)), x))


class Mean(nn.Module):
    """The average over the pixels of each channel."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class FirstOutput(nn.Module):
    """A recurrent network that returns its outputs alone."""

    def __init__(self, recurrent: nn.Module) -> None:
        super().__init__()
        self.recurrent = recurrent

    def forward(self, x: Tensor) -> Any:
        return self.recurrent(x)[0]


def cnn(layers: Layers, width: int = WIDTH, stages: int = STAGES) -> nn.Module:
    """A residual network of a stem, some stages and a classifier."""
    stem = (layers.conv(3, width), nn.BatchNorm2d(width), layers.relu())
    blocks = [Stage(layers, width) for _ in range(stages)]
    return nn.Sequential(*stem, *blocks, Mean(), layers.classifier(width, 10))


def mlp(layers: Layers, width: int = 1024, depth: int = 6) -> nn.Module:
    """Linear layers with quantized inputs, and ReLUs between them."""
    made = [m for _ in range(depth) for m in (layers.linear_with_input(width, width), nn.ReLU())]
    return nn.Sequential(*made[:-1])


class Workload(NamedTuple):
    """A network, and the shape of its input."""

    build: Callable[[Layers], nn.Module]
    shape: tuple[int, ...]
    #: How often it runs for one time: what takes microseconds is repeated.
    times: int = 1

    def data(self) -> Tensor:
        """An input, the same each time."""
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(0))


WORKLOADS = {
    "CNN": Workload(cnn, (32, 3, 32, 32)),
    "MLP": Workload(mlp, (256, 1024)),
    "LSTM": Workload(lambda layers: FirstOutput(layers.lstm()), (50, 16, 64)),
    "linear": Workload(lambda layers: layers.linear(64, 64), (8, 64), times=50),
    "ReLU": Workload(lambda layers: layers.relu(), (1024, 1024)),
    "percentile": Workload(lambda layers: layers.percentile(), (1_000_000,)),
}
