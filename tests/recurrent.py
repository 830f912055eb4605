"""What tests of recurrent layers share: float keywords, layers past their statistics, runs."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
from torch import nn

import brevitas.nn as qnn
from brevitas.core.scaling._collected import CollectedParameter
from brevitas.nn import _recurrent_layer

FLOAT_RNN: dict[str, Any] = dict.fromkeys(
    ("weight_quant", "bias_quant", "io_quant", "gate_acc_quant")
)
FLOAT_LSTM: dict[str, Any] = {
    **FLOAT_RNN,
    **dict.fromkeys(("sigmoid_quant", "tanh_quant", "cell_state_quant")),
}


def collected(layer: Any, *inputs: Any) -> Any:
    """The layer with statistics of two forwards, learning its scales from now on."""
    with torch.no_grad():
        for _ in range(2):
            layer(*inputs)
    for module in layer.modules():
        if isinstance(module, CollectedParameter):
            module.finish_collection()
            module._recent.clear()
    return layer


def step_by_step() -> Any:
    """Inside, no sequence runs as one operation."""
    return mock.patch.object(_recurrent_layer, "_runs_whole", lambda *_: False)


def flat(output: Any) -> list[torch.Tensor]:
    """Output, hidden state and cell state, if there is one."""
    return [output[0], *(output[1] if isinstance(output[1], tuple) else (output[1],))]


def run(layer: nn.Module, x: torch.Tensor, *states: torch.Tensor) -> dict[str, torch.Tensor]:
    """Outputs and gradients of a loss of all of them, by name."""
    layer.zero_grad()
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (x, *states)]
    outputs = flat(layer(*leaves))
    # Of different curvature, so that no gradients cancel.
    sum(
        part.sin().sum() + place * part.square().sum() for place, part in enumerate(outputs)
    ).backward()
    found = {f"output {place}": part.detach() for place, part in enumerate(outputs)}
    found |= {f"input {place}": leaf.grad for place, leaf in enumerate(leaves)}
    gradients = {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
    return {**found, **{f"gradient of {name}": grad.clone() for name, grad in gradients.items()}}


def assert_same_run(first: dict[str, Any], second: dict[str, Any], **tolerances: float) -> None:
    """Outputs and gradients are equal up to rounding."""
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(
            tensor, second[name], **tolerances, msg=lambda text, n=name: f"{n}: {text}"
        )


def lstm(**keywords: Any) -> Any:
    """A small quantized LSTM in float64, where no rounding hides a wrong gradient."""
    return qnn.QuantLSTM(4, 3, dtype=torch.float64, **keywords)


def sequence(steps: int = 5, batch: int = 2, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """A seeded input."""
    return torch.randn(steps, batch, 4, generator=torch.Generator().manual_seed(7)).to(dtype)
