"""TVMCon tutorial, chapter "Brevitas and FX": a tracer that is driven by inputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import brevitas.fx
from brevitas.fx import symbolic_trace, value_trace
from brevitas.nn import QuantLinear, QuantReLU


class Conditional(nn.Module):
    """A branch on values."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = QuantLinear(4, 4, bias=True)
        self.relu = QuantReLU()

    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0:
            return self.relu(self.linear(x))
        return -x


class Unpacking(Conditional):
    """Unpacking of a tensor, and of its shape."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = x
        rows, columns = x.shape
        return self.linear(first + second).reshape(columns) * rows


@pytest.mark.parametrize("model", [Conditional(), Unpacking()], ids=lambda m: type(m).__name__)
def test_s0_74_a_trace_with_values_goes_through_conditionals_and_unpacking(
    model: Conditional,
) -> None:
    example = torch.rand(2, 4)
    with pytest.raises(torch.fx.proxy.TraceError):
        symbolic_trace(model)

    traced = value_trace(model, value_args={"x": example})

    assert isinstance(traced, torch.fx.GraphModule)
    model.eval(), traced.eval()
    for x in (example, 3.0 * torch.rand(2, 4)):
        assert torch.equal(traced(x), model(x))


def test_s0_74_a_trace_follows_the_branch_of_its_input() -> None:
    model = Conditional().eval()
    x = torch.rand(2, 4)
    positive, negative = (value_trace(model, value_args={"x": sign * x}) for sign in (1, -1))
    assert torch.equal(negative(-x), x) and torch.equal(negative(x), -x)
    assert torch.equal(positive(x), model(x))
    assert sum(node.op == "call_module" for node in negative.graph.nodes) == 0


def test_s0_74_the_names_of_torch_fx() -> None:
    for name in ("Graph", "GraphModule", "Node", "Proxy", "Tracer"):
        assert getattr(brevitas.fx, name) is getattr(torch.fx, name)
    traced = symbolic_trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    assert [node.op for node in traced.graph.nodes] == [
        "placeholder", "call_module", "call_module", "output"
    ]  # fmt: skip
