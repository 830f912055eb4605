"""The code of a traced model gives its graph back."""

from __future__ import annotations

import copy
import operator

import torch
from torch import Tensor

from brevitas.fx._rebuild import CodeTracer


def straight_line(x: Tensor) -> Tensor:
    torch._C._set_grad_enabled(False)
    y = torch.rand(2)
    torch._C._set_grad_enabled(True)
    y += x
    y[0] = 1
    z = copy.deepcopy(copy.copy(y))
    return torch.zeros(x.size(0)) + round(z, 1)


def test_every_call_becomes_a_node() -> None:
    graph = CodeTracer().trace(straight_line)
    targets = [node.target for node in graph.nodes if node.op == "call_function"]
    assert targets == [
        torch._C._set_grad_enabled, torch.rand, torch._C._set_grad_enabled, operator.iadd,
        operator.setitem, copy.copy, copy.deepcopy, torch.zeros, round, operator.add,
    ]  # fmt: skip
    assert torch.is_grad_enabled()


def test_buffers_and_deletions() -> None:
    class Root(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("offset", torch.ones(1))

        def forward(self, x: dict[str, Tensor]) -> Tensor:
            del x["a"]
            return self.offset * 2

    operations = [node.op for node in CodeTracer().trace(Root()).nodes]
    assert operations == ["placeholder", "call_function", "get_attr", "call_function", "output"]
