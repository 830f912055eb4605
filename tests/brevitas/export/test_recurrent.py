"""Recurrent layers leave as graphs of all their steps, equal to the layer where they run."""

from __future__ import annotations

import pytest
import torch

import brevitas.nn as qnn
from brevitas.export import export_onnx_qcdq, export_qonnx
from export_runtime import operators, run_onnxruntime, run_qonnx
from recurrent import collected, sequence

pytest.importorskip("onnxscript")

CASES = [
    (qnn.QuantLSTM, {}),
    (qnn.QuantLSTM, {"num_layers": 2, "bidirectional": True}),
    (qnn.QuantLSTM, {"coupled_input_forget_gates": True, "batch_first": True}),
    (qnn.QuantRNN, {"nonlinearity": "relu"}),
]


class OutputOnly(torch.nn.Module):
    """A model that returns the outputs of a recurrent layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


def model_of(kind, options):
    torch.manual_seed(0)
    x = sequence(steps=3, dtype=torch.float32)
    return OutputOnly(collected(kind(4, 3, **options), x)).eval(), x


def assert_close_in_steps(found, model, x):
    """Equal, but for a sum on the edge between two integers, which moves an output by one step."""
    step = model.layer.layers[0][0].io_quant.scale()
    expected = model(x)
    assert float((found - expected).detach().abs().max()) <= 1.001 * float(step.detach())
    equal = (found - expected).abs() < 0.5 * step
    assert float(equal.float().mean()) >= 0.9


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_qcdq(kind, options):
    pytest.importorskip("onnxruntime")
    model, x = model_of(kind, options)
    graph = export_onnx_qcdq(model, x)
    assert_close_in_steps(run_onnxruntime(graph, x), model, x)


@pytest.mark.parametrize(("kind", "options"), [CASES[0], CASES[3]])
def test_qonnx(kind, options):
    pytest.importorskip("qonnx")
    model, x = model_of(kind, options)
    graph = export_qonnx(model, x)
    quantizers = [name for name in operators(graph) if name.endswith("Quant")]
    gates = 4 if kind is qnn.QuantLSTM else 1
    # Per gate two weights and a bias; the input; per step the sums, gates, states.
    per_step = 4 + 4 + 3 + 2 if kind is qnn.QuantLSTM else 2
    assert len(quantizers) == 3 * gates + 1 + 3 * per_step
    assert_close_in_steps(run_qonnx(graph, x), model, x)


def test_states_are_outputs_of_the_graph():
    model, x = model_of(qnn.QuantLSTM, {})
    assert len(export_qonnx(model.layer, x).graph.output) == 3
