"""How figures are taken."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks import measure


def test_saved_bytes_are_those_of_the_formula():
    """A ReLU keeps its output, a linear layer its input; parameters and the input are there."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(3, 4)
    assert measure.saved_bytes(model, x) == 4 * 3 * 8


def test_operations_are_counted():
    model, x = nn.ReLU(), torch.randn(3, requires_grad=True)
    counted = measure.operations(model, x)
    with measure.Operations() as mode:
        torch.relu(torch.randn(3))
    assert mode.count == 2 and counted > 4


def test_ratio_of_neighbours(monkeypatch):
    times = iter([1.0, 2.0, 3.0, 6.0, 1.0, 1.0])
    monkeypatch.setattr(measure, "seconds", lambda run: next(times))
    figure = measure.ratio(lambda: None, lambda: None, repeats=3)
    assert figure["ratio"] == 0.5 and figure["low"] == 0.5
