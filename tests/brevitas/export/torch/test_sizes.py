"""Sizes that a file holds as constants are checked where it runs."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from brevitas.export.torch.sizes import (
    Limits,
    expect_sizes,
    fixed_symbols,
    limits_of,
)

OPEN = 2**62


def traced(function: Any, x: Tensor) -> Any:
    class Module(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    sizes = dict.fromkeys(range(x.dim()), torch.export.Dim.AUTO)
    return torch.export.export(Module(), (x,), dynamic_shapes=(sizes,), strict=False)


def limits(function: Any, x: Tensor, recorded: Any) -> Limits:
    program = traced(function, x)
    graph = program.graph
    stand_in = next(node.meta["val"] for node in graph.nodes if node.op == "placeholder")
    return limits_of(x, stand_in, fixed_symbols(graph, recorded), program.range_constraints)


def test_a_size_is_open_where_all_that_read_it_are_recorded() -> None:
    x = torch.ones(4, 6)
    reads = {torch.ops.aten.sym_size.int, operator.floordiv}

    def half(x: Tensor) -> Tensor:
        return x[: x.shape[0] // 2]

    assert limits(half, x, reads | {torch.ops.aten.slice.Tensor}).text == "[at least 2, at least 2]"
    assert limits(half, x, reads).text == "[4, at least 2]"


def test_what_the_model_fixes_and_excludes_is_known() -> None:
    x = torch.ones(4, 6)
    assert limits(lambda x: x @ torch.ones(6, 2), x, ()).text == "[at least 2, 6]"
    assert limits(lambda x: x if x.shape[0] > 3 else -x, x, ()).low[0] == 4


def test_limits_in_words() -> None:
    assert Limits([0, 1, 3, 2, 2], [OPEN, OPEN, 3, 8, OPEN]).text == (
        "[any, any, 3, 2 to 8, at least 2]"
    )


# 2026-11: PyTorch deprecates TorchScript.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_file_refuses_other_sizes() -> None:
    compiled: Any = torch.jit.script(expect_sizes)
    for check, error in ((expect_sizes, ValueError), (compiled, torch.jit.Error)):
        x = torch.ones(2, 3)
        assert check(x, [0, 3], [OPEN, 3], "[any, 3]").shape == (2, 3)
        for wrong in (torch.ones(2, 4), torch.ones(2), torch.ones(2, 3, 1)):
            with pytest.raises(error, match=r"written for \[any, 3\]; export"):
                check(wrong, [0, 3], [OPEN, 3], "[any, 3]")
