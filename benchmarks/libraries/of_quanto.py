"""The networks in optimum-quanto, which quantizes weights, and inputs of linear layers."""

from __future__ import annotations

import torch
from optimum.quanto import Calibration, qint8, quantize
from torch import Tensor, nn

from benchmarks.library import Library, Unsupported, built_float

_SUPPORTED = ("MLP", "linear")
_LACKING = "it quantizes linear layers, convolutions and norms only."
_NO_ACTIVATIONS = "what its convolutions, ReLUs and sums return stays in floating point."


class Quanto(Library):
    """Weights per channel; inputs of linear layers with scales of a calibration."""

    distribution = "optimum-quanto"
    has_statistics = False

    def build(self, workload: str) -> nn.Module:
        if workload not in _SUPPORTED:
            raise Unsupported(_NO_ACTIVATIONS if workload == "CNN" else _LACKING)
        model = built_float(workload)
        holder = nn.Sequential(model)  # a network may be a layer itself
        quantize(holder, weights=qint8, activations=None if workload == "linear" else qint8)
        return holder

    def end_statistics(self, model: nn.Module, x: Tensor) -> None:
        with torch.no_grad(), Calibration():
            model(x)


LIBRARY = Quanto()
