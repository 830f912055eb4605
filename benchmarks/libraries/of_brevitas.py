"""The networks in Brevitas, written with the interface that all of its releases share."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from importlib import import_module

import torch
from torch import Tensor, nn

import brevitas.nn as qnn
from benchmarks.library import Library, Unsupported
from benchmarks.workloads import LSTM_SIZES, WORKLOADS, Layers
from brevitas.core.stats import AbsPercentile
from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerChannelFloat

# After the end of a collection, a few forwards still look for recomputed batches.
_SETTLING = 3


class AlignedSum(nn.Module):
    """The sum of two tensors that one quantizer brings to one grid."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = qnn.QuantIdentity()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.shared(x) + self.shared(y)


class BrevitasLayers(Layers):
    """Layers with the quantizers that they have by default, weights of a network per channel."""

    def conv(self, inputs: int, outputs: int) -> nn.Module:
        quantizer = {"weight_quant": Int8WeightPerChannelFloat}
        return qnn.QuantConv2d(inputs, outputs, 3, padding=1, bias=False, **quantizer)

    def classifier(self, inputs: int, outputs: int) -> nn.Module:
        return qnn.QuantLinear(inputs, outputs, weight_quant=Int8WeightPerChannelFloat)

    def linear(self, inputs: int, outputs: int) -> nn.Module:
        return qnn.QuantLinear(inputs, outputs)

    def linear_with_input(self, inputs: int, outputs: int) -> nn.Module:
        return qnn.QuantLinear(inputs, outputs, input_quant=Int8ActPerTensorFloat)

    def relu(self) -> nn.Module:
        return qnn.QuantReLU()

    def addition(self) -> nn.Module:
        return AlignedSum()

    def lstm(self) -> nn.Module:
        return qnn.QuantLSTM(**LSTM_SIZES)

    def percentile(self) -> nn.Module:
        return AbsPercentile(99.999, None)


class Brevitas(Library):
    """This library, or an installed release of it."""

    distribution = "brevitas"
    has_jit = True

    def build(self, workload: str) -> nn.Module:
        return WORKLOADS[workload].build(BrevitasLayers())

    def end_statistics(self, model: nn.Module, x: Tensor) -> None:
        model.train()
        model(x)
        for module in model.modules():
            if hasattr(module, "init_scale"):
                module.init_scale()
        for _ in range(_SETTLING):
            model(x)

    def inference_mode(self, model: nn.Module) -> AbstractContextManager[object]:
        # Imported where it is used: some releases need optional packages for it.
        try:
            manager = import_module("brevitas.export.inference.manager")
        except ImportError as error:
            raise Unsupported(f"its mode of inference does not import: {error}.") from error
        return manager.quant_inference_mode(model, cache_quant_weight=True)

    def calibrate(self, model: nn.Module, batches: Iterable[Tensor]) -> None:
        _in_mode("calibration_mode", model, batches)

    def correct_bias(self, model: nn.Module, batches: Iterable[Tensor]) -> None:
        _in_mode("bias_correction_mode", model, batches)

    def end_soon(self, model: nn.Module, steps: int) -> None:
        for module in model.modules():
            if hasattr(module, "collect_stats_steps"):
                module.collect_stats_steps = steps


def _in_mode(name: str, model: nn.Module, batches: Iterable[Tensor]) -> None:
    # Imported where it is used: `import brevitas.nn` does not need it.
    mode = getattr(import_module("brevitas.graph.calibrate"), name)
    with torch.no_grad(), mode(model):
        for batch in batches:
            model(batch)


LIBRARY = Brevitas()
