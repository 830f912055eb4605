"""The networks in PyTorch's own fake quantization, `torch.ao.quantization.FakeQuantize`."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.library import Library, Unsupported
from benchmarks.workloads import WORKLOADS, Layers

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # PyTorch's, about the module's future
    from torch.ao.nn import qat
    from torch.ao.quantization import (
        FakeQuantize,
        MovingAverageMinMaxObserver,
        MovingAveragePerChannelMinMaxObserver,
        QConfig,
        disable_observer,
    )

_SIGNED: dict[str, Any] = {"quant_min": -128, "quant_max": 127, "dtype": torch.qint8}
_PER_TENSOR = FakeQuantize.with_args(
    observer=MovingAverageMinMaxObserver, qscheme=torch.per_tensor_symmetric, **_SIGNED
)
_PER_CHANNEL = FakeQuantize.with_args(
    observer=MovingAveragePerChannelMinMaxObserver,
    qscheme=torch.per_channel_symmetric,
    ch_axis=0,
    **_SIGNED,
)
_UNSIGNED = FakeQuantize.with_args(
    observer=MovingAverageMinMaxObserver, quant_min=0, quant_max=255, dtype=torch.quint8
)


class AlignedSum(nn.Module):
    """The sum of two tensors that one quantizer brings to one grid."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = _PER_TENSOR()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.shared(x) + self.shared(y)


class TorchLayers(Layers):
    """Layers of `torch.ao.nn.qat`, and fake quantization after and before others."""

    def conv(self, inputs: int, outputs: int) -> nn.Module:
        qconfig = QConfig(activation=nn.Identity, weight=_PER_CHANNEL)
        return qat.Conv2d(inputs, outputs, 3, padding=1, bias=False, qconfig=qconfig)

    def classifier(self, inputs: int, outputs: int) -> nn.Module:
        return _linear(inputs, outputs, _PER_CHANNEL)

    def linear(self, inputs: int, outputs: int) -> nn.Module:
        return _linear(inputs, outputs, _PER_TENSOR)

    def linear_with_input(self, inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(_PER_TENSOR(), self.linear(inputs, outputs))

    def relu(self) -> nn.Module:
        return nn.Sequential(nn.ReLU(), _UNSIGNED())

    def addition(self) -> nn.Module:
        return AlignedSum()

    def lstm(self) -> nn.Module:
        raise Unsupported("its recurrent layers are for inference only.")

    def percentile(self) -> nn.Module:
        raise Unsupported("there is no percentile of magnitudes.")


def _linear(inputs: int, outputs: int, weight: Any) -> nn.Module:
    return qat.Linear(inputs, outputs, qconfig=QConfig(activation=nn.Identity, weight=weight))


class TorchFakeQuant(Library):
    """Moving averages of extremes, then static scales."""

    distribution = "torch"

    def build(self, workload: str) -> nn.Module:
        return WORKLOADS[workload].build(TorchLayers())

    def end_statistics(self, model: nn.Module, x: Tensor) -> None:
        model.train()
        model(x)
        model.apply(disable_observer)


LIBRARY = TorchFakeQuant()
