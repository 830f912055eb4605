"""Tracing for inputs of any size, without operators that change a tensor in place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from brevitas.export.common.spec import ExportError
from brevitas.export.torch.tracing import trace_open

aten = torch.ops.aten


class Inplace(nn.Module):
    def forward(self, x: Tensor, *others: Tensor, **options: Any) -> Tensor:
        y = x * 2
        y += x
        nn.functional.relu(y, inplace=True)
        return sum(others, y.view(y.shape[0], -1))


def test_the_graph_has_no_side_effects() -> None:
    values = (torch.ones(1, 2, 3), torch.ones(1, 6), torch.ones(6))
    traced = trace_open(Inplace(), values)
    targets = {node.target for node in traced.graph.graph.nodes if node.op == "call_function"}
    assert {aten.relu.default, aten.view.default} <= targets
    assert not {target for target in targets if getattr(target, "_schema", None) is not None
                and target._schema.is_mutable}  # fmt: skip
    assert [limits.text for limits in traced.limits if limits] == ["[any, any, any]", "[any, any]",
                                                                   "[any]"]  # fmt: skip
    fresh = tuple(torch.randn(size) for size in ((4, 2, 3), (4, 6), (6,)))
    assert torch.equal(traced.graph(*fresh), Inplace()(*fresh))


def test_inputs_that_are_no_tensors_have_no_sizes() -> None:
    class Scaled(nn.Module):
        def forward(self, inputs: dict[str, Tensor], factor: float) -> Tensor:
            return inputs["x"] * factor

    traced = trace_open(Scaled(), ({"x": torch.ones(2)}, 3.0))
    assert [limits and limits.text for limits in traced.limits] == ["[any]", None]


def test_state_and_branches_are_refused() -> None:
    norm = nn.BatchNorm1d(2)
    with pytest.raises(ExportError, match="buffer 'num_batches_tracked'.*Layer: BatchNorm1d$"):
        trace_open(norm, (torch.ones(4, 2),))

    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(ExportError, match="tracing failed"):
        trace_open(Branch(), (torch.ones(2),))
