"""The networks in torchao: linear layers, prepared for training with fake quantization."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchao.quantization import quantize_
from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig

from benchmarks.library import Library, Unsupported, built_float

_LINEAR_ONLY = ("MLP", "linear")


class Torchao(Library):
    """Weights per channel, activations per token with scales of each batch."""

    distribution = "torchao"
    has_statistics = False

    def build(self, workload: str) -> nn.Module:
        if workload not in _LINEAR_ONLY:
            raise Unsupported("its training with fake quantization has linear layers only.")
        model = nn.Sequential(built_float(workload))  # layers are replaced inside of a model
        weight = IntxFakeQuantizeConfig(torch.int8, "per_channel", is_symmetric=True)
        token = IntxFakeQuantizeConfig(torch.int8, "per_token", is_symmetric=False)
        activation = token if workload == "MLP" else None
        quantize_(
            model,
            QATConfig(activation_config=activation, weight_config=weight, step="prepare"),
        )
        return model

    def end_statistics(self, model: nn.Module, x: Tensor) -> None:
        """There is nothing to end: scales follow each batch."""


LIBRARY = Torchao()
