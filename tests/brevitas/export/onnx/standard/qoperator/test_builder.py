"""A graph that is written anew."""

from __future__ import annotations

import pytest
import torch

from brevitas.export.onnx.standard.qoperator._builder import Builder, captured_names

onnx = pytest.importorskip("onnx")
helper = pytest.importorskip("onnx.helper")


def _model() -> object:
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 3])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2, 3])
    one = onnx.numpy_helper.from_array(torch.ones(1).numpy(), "one")
    unused = onnx.numpy_helper.from_array(torch.zeros(1).numpy(), "unused")
    node = helper.make_node("Add", ["x", "one"], ["y"])
    graph = helper.make_graph([node], "g", [x], [y], [one, unused])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def test_constants_are_shared_by_name_and_value() -> None:
    builder = Builder(_model())
    assert builder.add_constant(torch.ones(1), "one") == "one"
    other = builder.add_constant(torch.zeros(1), "one")
    assert other == "one_1"
    assert builder.add_constant(torch.zeros(1), "one") == other
    assert torch.equal(builder.constant(other), torch.zeros(1))
    assert builder.constant("x") is None
    assert builder.rank("x") == 2 and builder.rank("nothing") is None


def test_finish_keeps_what_is_read() -> None:
    builder = Builder(_model())
    scale = builder.add_constant(torch.full((1,), 2.0), "scale")
    builder.add("Mul", ("x", scale), ("y",), "layer")
    model = builder.finish()
    assert [node.op_type for node in model.graph.node] == ["Mul"]
    assert [item.name for item in model.graph.initializer] == ["scale"]
    onnx.checker.check_model(model)


def test_names_inside_of_subgraphs_count() -> None:
    out = helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, None)
    body = helper.make_graph([helper.make_node("Relu", ["outside"], ["inner"])], "b", [], [out])
    node = helper.make_node("If", ["condition"], ["y"], then_branch=body, else_branch=body)
    assert {"condition", "outside"} <= set(captured_names(node))
