"""Figures that no noise disturbs stay within their limits: operations, bytes, graphs.

`LIMITS` is the one table: a figure that became lower lowers its limit here.
"""

from __future__ import annotations

import functools

import pytest
import torch
from benchmarks.libraries.of_brevitas import BrevitasLayers
from benchmarks.library import load_library
from benchmarks.twins import FLOAT, QUANTIZED, STEPS, Case, Twins
from benchmarks.workloads import mlp
from torch import nn

from benchmarks import measure

BREVITAS = load_library("brevitas")

# (network, what is done, phase) -> most operations of ATen; the float twin has the second number.
OPERATION_LIMITS = {
    ("CNN", "train", "statistics"): (2596, 226),
    ("CNN", "train", "learned"): (1329, 226),
    ("MLP", "train", "statistics"): (628, 90),
    ("MLP", "train", "learned"): (428, 90),
    ("LSTM", "train", "learned"): (15864, 32),
    ("LSTM", "inference", "learned"): (4873, 10),
}
# (network, phase) -> most bytes kept for the backward pass, as a ratio to the float twin.
BYTE_LIMITS = {
    ("CNN", "statistics"): 1.705,
    ("CNN", "learned"): 1.705,
    ("MLP", "statistics"): 2.205,
    ("MLP", "learned"): 2.205,
}
# Network -> most graphs of a training run through the end of the statistics phase. A quantizer
# that sees two tensors a step ends its statistics earlier than the others: a graph more.
GRAPH_LIMITS = {"MLP": 2, "residual": 3}
# Most graphs that evaluation, and another shape in training and in evaluation, need in addition.
FURTHER_GRAPHS = 2


@functools.cache
def twins(network: str, action: str, phase: str, batch: int | None = None) -> Twins:
    return Twins(BREVITAS, Case(network, action, learned=phase == "learned"), batch)


@pytest.mark.parametrize(("network", "action", "phase"), OPERATION_LIMITS)
def test_operations(network, action, phase):
    most, reference = OPERATION_LIMITS[network, action, phase]
    # Where no tensor is so large that it is worked on in blocks, operations do not depend on the
    # batch; but an LSTM's first dimension is its steps.
    pair = twins(network, action, phase, None if network == "LSTM" else 2)
    assert pair.operations(FLOAT) == reference
    assert reference < pair.operations(QUANTIZED) <= most


@pytest.mark.parametrize(("network", "phase"), BYTE_LIMITS)
def test_bytes_saved_for_backward(network, phase):
    pair = twins(network, "train", phase)
    ratio = pair.saved_bytes(QUANTIZED) / pair.saved_bytes(FLOAT)
    assert 1.0 < ratio <= BYTE_LIMITS[network, phase]
    output = measure.output_of(pair.models[QUANTIZED], pair.x)
    # Parameters are there in any case; a scale is one number per channel at most.
    given = {id(parameter) for parameter in pair.models[QUANTIZED].parameters()}
    hidden = [t for t in measure.hidden_tensors(output) if id(t) not in given]
    assert sum(tensor.numel() for tensor in hidden) <= 64 * len(given)


class Residual(nn.Module):
    """A layer, a sum with its input on one grid, a ReLU."""

    def __init__(self):
        super().__init__()
        layers = BrevitasLayers()
        self.layer, self.relu = layers.linear(8, 8), layers.relu()
        self.addition = layers.addition()

    def forward(self, x):
        return self.relu(self.addition(self.layer(x), x))


NETWORKS = {
    "MLP": (lambda: mlp(BrevitasLayers(), width=8, depth=2), (4, 8)),
    "residual": (Residual, (4, 8)),
}


@pytest.mark.parametrize("network", GRAPH_LIMITS)
def test_graphs_of_a_training_run(network):
    build, shape = NETWORKS[network]
    model = build()
    BREVITAS.end_soon(model, STEPS)
    # Graphs and breaks are found before a backend sees them: the fastest one will do.
    found = measure.graphs_of_run(model, torch.randn(shape), 2 * STEPS, backend="eager")
    torch._dynamo.reset()
    assert found.pop("breaks") == 0
    assert found.pop("training") <= GRAPH_LIMITS[network]
    assert max(found.values()) <= FURTHER_GRAPHS
