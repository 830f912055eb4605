"""What holds for every layer: `torch.compile` and `torch.export` give one program, of equal values.

Rows are compiled in groups, since starting a compiler costs more than a layer.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from layer_rows import ROWS, Kind, Row
from layers import data, tensors, trained

# Their other dimensions are programs of the same layer, as are the rows of one class.
OTHER_DIMENSIONS = ("conv1d", "conv3d", "convtranspose1d", "convtranspose3d", "batch_norm1d")


def _groups() -> dict[str, list[str]]:
    first = {row.layer: name for name, row in reversed(ROWS.items())}
    groups: dict[str, list[str]] = {}
    for name, row in ROWS.items():
        if name not in OTHER_DIMENSIONS and first[row.layer] == name:
            groups.setdefault(_group(name, row), []).append(name)
    return groups


def _group(name: str, row: Row) -> str:
    if row.has_weight:
        return "weights"
    if row.kind is Kind.INTEGERS:
        return "integers"
    for start in ("attention", "float_attention", "rnn", "lstm"):
        if name.startswith(start):
            return start
    return "others"


GROUPS = _groups()
every_group = pytest.mark.parametrize("group", GROUPS)


class Several(nn.Module):
    """Runs the layers of some rows, each on its own input."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names
        self.layers = nn.ModuleDict({name: trained(name) for name in names})

    def forward(self, inputs: list) -> list:
        results = zip(self.names, inputs, strict=True)
        return [ROWS[name].call(self.layers[name], x) for name, x in results]


def values(outputs: list) -> Iterator[torch.Tensor]:
    for output in tensors(outputs):
        yield from [output] if isinstance(output, torch.Tensor) else output[:4]


def assert_equal_outputs(names: list[str], ours: list, expected: list) -> None:
    for name, first, second in zip(names, ours, expected, strict=True):
        for ours_part, expected_part in zip(values([first]), values([second]), strict=True):
            assert torch.equal(ours_part, expected_part), name


@pytest.fixture(autouse=True)
def _forget_programs() -> Iterator[None]:
    yield
    torch._dynamo.reset()


# What takes longest is exported in any case.
@pytest.mark.parametrize(
    "group", [pytest.param(g, marks=pytest.mark.long) if g == "lstm" else g for g in GROUPS]
)
def test_compiles(group: str) -> None:
    names = GROUPS[group]
    model, inputs = Several(names).eval(), [data(name) for name in names]
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():  # without a program of the gradients, which costs the most
        assert_equal_outputs(names, compiled(inputs), model(inputs))


@every_group
def test_exports(group: str) -> None:
    names = GROUPS[group]
    model, inputs = Several(names).eval(), [data(name) for name in names]
    program = torch.export.export(model, (inputs,), strict=False)
    assert_equal_outputs(names, program.module()(inputs), model(inputs))
