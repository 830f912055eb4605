"""Traced models compute what the model does, written as users write them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from brevitas.fx import (
    brevitas_symbolic_trace,
    brevitas_value_trace,
    symbolic_trace,
    value_trace,
)
from brevitas.nn import QuantReLU


def by_value(model: nn.Module) -> GraphModule:
    return value_trace(model, value_args=(torch.randn(3, 4),))


def by_value_whole(model: nn.Module) -> GraphModule:
    return brevitas_value_trace(model, value_args=(torch.randn(3, 4),))


TRACERS = [by_value, by_value_whole, symbolic_trace, brevitas_symbolic_trace]


class Applied(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.linear, self.dropout = nn.Linear(4, 4), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def other_name(model: Any, x: Tensor) -> Tensor:
    y = z = model.linear(x)
    y += 1
    y *= 2
    return y + z


def other_name_first(model: Any, x: Tensor) -> Tensor:
    y = model.linear(x)
    z = y.view(-1)
    y += 1
    return z


def unchanged_dropout(model: Any, x: Tensor) -> Tensor:
    x = x + 1
    y = model.dropout(x)
    y += 1
    return x * y


def written(model: Any, x: Tensor) -> Tensor:
    y = model.linear(x)
    y[:, 0] = 0
    return y


def drawn(model: Any, x: Tensor) -> Tensor:
    return x + torch.randn(4) + torch.normal(0.0, 1.0, (4,)) + torch.randperm(4)


def drawn_as_large(model: Any, x: Tensor) -> Tensor:
    return x + torch.rand(x.shape) + torch.randint(0, 9, (x.shape[0], 1))


def cast(model: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model.linear(x)
    return model.linear(y.float())


def not_cast(model: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=False):
        return model.linear(x)


FUNCTIONS = [other_name, other_name_first, unchanged_dropout, written, drawn, drawn_as_large, cast,
             not_cast]  # fmt: skip


@pytest.mark.parametrize("trace", TRACERS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_results_are_equal(function: Any, trace: Callable[[nn.Module], GraphModule]) -> None:
    model = Applied(function).eval()
    traced = trace(copy.deepcopy(model))
    again = pickle.loads(pickle.dumps(traced))
    for rows in (3, 5):
        x, results = torch.randn(rows, 4), []
        for module in (model, traced, again):
            torch.manual_seed(1)
            results.append(module(x.clone()))
        assert [r.dtype for r in results] == [results[0].dtype] * 3
        # A copy of the parameters lies elsewhere in memory, so that sums may add up otherwise.
        torch.testing.assert_close(results[1:], results[:1] * 2, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("trace", TRACERS)
def test_modes_are_as_before(trace: Callable[[nn.Module], GraphModule]) -> None:
    traced = trace(Applied(cast))
    traced(torch.randn(2, 4))
    assert not torch.is_autocast_enabled("cpu")
    assert torch.autocast_increment_nesting() == 1
    assert torch.autocast_decrement_nesting() == 0
    traced.graph.eliminate_dead_code()
    targets = [node.target for node in traced.graph.nodes]
    assert targets.count(torch.set_autocast_enabled) == 2


@pytest.mark.parametrize("trace", [symbolic_trace, brevitas_symbolic_trace])
def test_residual_additions_are_found_by_their_operator(trace: Any) -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.linear(x))
            y += x
            return torch.relu(y)

    targets = {str(node.target) for node in trace(Residual()).graph.nodes}
    assert "<built-in function add>" in targets
    assert "<built-in function iadd>" not in targets


def test_records_are_built_by_unpickled_models() -> None:
    model = nn.Sequential(QuantReLU(return_quant_tensor=True)).eval()
    traced = value_trace(model, value_args=(torch.randn(3, 4),))
    again, x = pickle.loads(pickle.dumps(traced)), torch.randn(3, 4)
    assert torch.equal(again(x).value, model(x).value)
