"""How figures are taken."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks import measure


def test_saved_bytes_are_those_of_the_formula():
    """A ReLU keeps its output, a linear layer its input; parameters and the input are there."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(3, 4)
    assert measure.saved_bytes(model, x) == 4 * 3 * 8


class _Hiding(torch.autograd.Function):
    """Keeps tensors where no hook sees them."""

    @staticmethod
    def forward(ctx, x):
        ctx.kept = {"doubled": [2 * x]}
        return x + 1

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.kept["doubled"][0]


class Hiding(nn.Module):
    def forward(self, x):
        return _Hiding.apply(x).sum()


def test_what_a_node_hides_from_the_hooks_counts():
    x = torch.randn(5, requires_grad=True)
    hidden = list(measure.hidden_tensors(Hiding()(x)))
    assert len(hidden) == 1 and torch.equal(hidden[0], 2 * x)
    assert measure.saved_bytes(Hiding(), x) == 4 * 5


def test_operations_are_counted_without_a_loss():
    model, x = nn.ReLU(), torch.randn(3, requires_grad=True)
    # relu, its saved result, its gradient; the gradient's own copy in the leaf.
    assert measure.operations(model, x, backward=False) == 1
    counted = measure.operations(model, x)
    with measure.Operations() as mode:
        torch.relu(x).backward(torch.ones(3))
    assert counted == mode.count - 1 > 1  # this one makes its gradient inside


def test_ratio_of_neighbours():
    figure = measure.ratio([1.0, 3.0, 1.0], [2.0, 6.0, 1.0])
    assert figure["ratio"] == 0.5 and figure["low"] == 0.5 and figure["rounds"] == 3
    assert figure["ms"] == 1e3 and figure["reference_ms"] == 2e3


def test_rounds_alternate_after_the_warm_up():
    order = []
    runs = [lambda name=name: order.append(name) or float(len(order)) for name in "ab"]
    found = measure.in_turns(runs, budget=0.0)
    warm, (least, _) = 2 * measure.WARM_UP, measure.ROUNDS
    assert "".join(order[warm:]) == ("abba" * least)[: 2 * least]
    assert [len(times) for times in found] == [least, least]
    assert found[0][0] == warm + 1


@pytest.mark.parametrize(("threads", "name"), [(1, "process_time"), (2, "perf_counter")])
def test_the_clock_follows_the_threads(threads, name):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert measure.clock().__name__ == name
    finally:
        torch.set_num_threads(before)


class Breaking(nn.Module):
    def forward(self, x):
        x = x + 1
        torch._dynamo.graph_break()
        return x * 2


def test_graphs_and_breaks_are_counted():
    graphs = measure.Graphs("eager")
    graphs.compiled(Breaking())(torch.ones(3))
    assert (graphs.count, graphs.breaks) == (2, 1)
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    figure = measure.graphs_of_run(model, torch.randn(8, 3), 2, "eager")
    assert figure == {
        "training": 1,
        "evaluation": 1,
        "evaluation of another shape": 1,
        "training of another shape": 1,
        "breaks": 0,
    }
