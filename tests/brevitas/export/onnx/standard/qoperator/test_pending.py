"""Layers that wait, and how they are written."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from brevitas.export.common.integers import Integers
from brevitas.export.common.spec import ExportError
from brevitas.export.onnx.standard.qoperator._builder import Builder
from brevitas.export.onnx.standard.qoperator._pending import (
    Pending,
    limit,
    move,
    split,
    write_pending,
)

onnx = pytest.importorskip("onnx")
helper = pytest.importorskip("onnx.helper")


def _builder() -> Builder:
    graph = helper.make_graph([], "g", [], [])
    return Builder(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))


def _grid(name: str, dtype: torch.dtype = torch.int8, data: Any = None) -> Integers:
    zero_point = torch.zeros((), dtype=dtype)
    return Integers.full_range(name, torch.tensor(0.5), zero_point, None, name, data)


def _pending(operator: str, weight: torch.Tensor, **fields: Any) -> Pending:
    node = helper.make_node(operator, ["x", "w"], ["y"])
    return Pending(node, node, _grid("x"), _grid("fc.weight_quant", data=weight), **fields)


def test_the_output_takes_the_type_of_the_input() -> None:
    builder = _builder()
    weight = torch.ones(3, 2, dtype=torch.int8)
    output = write_pending(builder, _pending("MatMul", weight), _grid("y", torch.uint8), "net")
    (node,) = builder.nodes
    assert node.op_type == "QLinearMatMul" and node.name.startswith("fc/")
    assert output.dtype == torch.int8 and int(output.zero_point) == -128


def test_clamps_become_limits_of_integers() -> None:
    builder = _builder()
    pending = _pending("MatMul", torch.ones(3, 2, dtype=torch.int8))
    pending = pending.limited(pending.node, 0.0, 4.0).limited(pending.node, 1.0, 9.0)
    output = write_pending(builder, pending, _grid("y"), "net")
    assert [node.op_type for node in builder.nodes] == ["QLinearMatMul", "Clip"]
    assert (output.low, output.high) == (2, 8)


@pytest.mark.parametrize("rank, around", [(1, "Unsqueeze"), (2, "Unsqueeze"), (4, "Transpose")])
def test_a_matrix_with_a_bias_is_a_convolution(rank: int, around: str) -> None:
    builder = _builder()
    weight = torch.tensor([[1, 2], [3, 4], [5, 6]], dtype=torch.int8)
    pending = _pending("MatMul", weight, rank=rank, bias=torch.tensor([1.0, -1.0]))
    write_pending(builder, pending, _grid("y"), "net")
    first, node, _ = builder.nodes
    assert first.op_type == around and node.op_type == "QLinearConv"
    kernel, bias = builder.constant(node.input[3]), builder.constant(node.input[8])
    assert kernel is not None and bias is not None
    assert torch.equal(kernel.squeeze(), weight.t())
    assert kernel.dim() == max(rank, 3)
    # In steps of 0.5 * 0.5.
    assert bias.tolist() == [4, -4]


def test_only_a_vector_of_outputs_is_a_bias() -> None:
    pending = _pending("MatMul", torch.ones(3, 2, dtype=torch.int8))
    assert pending.takes_bias(torch.ones(2))
    assert not pending.takes_bias(torch.ones(3))
    assert not pending.takes_bias(torch.ones(1, 2))
    assert not pending.limited(SimpleNamespace(), 0.0, 1.0).takes_bias(torch.ones(2))


def test_limits_outside_of_the_range_write_nothing() -> None:
    builder = _builder()
    grid = _grid("x")
    assert limit(builder, grid, -500, 500) is grid
    assert not builder.nodes


def test_padding_is_with_the_zero_point() -> None:
    builder = _builder()
    grid = Integers.full_range(
        "x", torch.tensor(0.5), torch.tensor(7, dtype=torch.uint8), None, "x"
    )  # fmt: skip
    node = helper.make_node("Pad", ["x", "pads", "zero"], ["y"])
    move(builder, grid, node)
    assert builder.nodes[0].input[1] == "pads"
    assert builder.constant(builder.nodes[0].input[2]) == torch.tensor(7, dtype=torch.uint8)


def test_zeros_that_wait_are_remembered() -> None:
    pending = _pending("Conv", torch.ones(3, 2, 1, dtype=torch.int8))
    moved = pending.followed_by(helper.make_node("Reshape", ["y", "shape"], ["z"]))
    assert not moved.is_padded
    assert moved.followed_by(helper.make_node("Pad", ["z", "pads"], ["p"])).is_padded


def test_integers_are_dealt_out() -> None:
    builder = _builder()
    left, right = split(builder, _grid("x"), helper.make_node("Split", ["x", "n"], ["a", "b"]))
    assert list(builder.nodes[0].output) == [left.name, right.name] == ["a.integers", "b.integers"]
    assert list(builder.nodes[0].input) == ["x", "n"]


def test_a_matrix_with_a_bias_needs_a_known_number_of_dimensions() -> None:
    pending = _pending("MatMul", torch.ones(3, 2, dtype=torch.int8), bias=torch.ones(2))
    with pytest.raises(ExportError, match="number of dimensions.*bias=False.*Layer: fc$"):
        write_pending(_builder(), pending, _grid("y"), "net")


def test_more_than_8_bits_are_refused() -> None:
    pending = _pending("MatMul", torch.ones(3, 2, dtype=torch.int8))
    with pytest.raises(ExportError, match="output.*8 bits.*Layer: fc"):
        write_pending(_builder(), pending, _grid("y", torch.int16), "net")
