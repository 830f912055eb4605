"""Finishing a traced graph: domains, names, completeness."""

from __future__ import annotations

from typing import Any

import pytest

from brevitas.export.common.session import EXPORT_DOMAIN, SITE_ATTRIBUTE, ExportSession, Site
from brevitas.export.common.spec import ExportError
from brevitas.export.onnx._graph import MAX_IR_VERSION, finish

onnx = pytest.importorskip("onnx")


def make_traced(opset: int = 20) -> tuple[Any, ExportSession]:
    """Build what the tracer makes of one quantizer named fc.weight_quant."""
    helper, float_type = onnx.helper, onnx.TensorProto.FLOAT
    node = helper.make_node("Quant", ["w", "c0"], ["y"], domain=EXPORT_DOMAIN, site=0, narrow=1)
    graph = helper.make_graph(
        [node],
        "main",
        [],
        [helper.make_tensor_value_info("y", float_type, [1])],
        [helper.make_tensor(name, float_type, [1], [1.0]) for name in ("w", "c0")],
    )
    versions = [helper.make_opsetid("", opset), helper.make_opsetid(EXPORT_DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=versions, ir_version=13)
    session = ExportSession(opset=20)
    session.count_call("fc.weight_quant")
    session.sites.append(Site("fc.weight_quant", "custom", ("", "scale")))
    return model, session


def test_nodes_move_to_their_domain_under_the_name_of_their_proxy() -> None:
    model, session = make_traced()
    finish(model, session, {"custom": 2, "unused": 3}, {"w"})
    (node,) = model.graph.node
    assert node.domain == "custom"
    assert node.name.startswith("fc.weight_quant/Quant")
    assert [item.name for item in node.attribute] == ["narrow"]
    assert SITE_ATTRIBUTE != "narrow"
    assert list(node.input) == ["w", "fc.weight_quant.scale"]
    assert [item.name for item in model.graph.initializer] == ["w", "fc.weight_quant.scale"]
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 20), ("custom", 2)]
    assert model.ir_version == MAX_IR_VERSION


def test_a_lost_quantizer_is_an_error() -> None:
    model, session = make_traced()
    session.count_call("fc.bias_quant")
    with pytest.raises(ExportError, match=r"1 quantizers .*fc\.bias_quant"):
        finish(model, session, {}, set())


def test_an_empty_graph_is_an_error() -> None:
    model, _ = make_traced()
    del model.graph.node[:]
    with pytest.raises(ExportError, match="empty"):
        finish(model, ExportSession(opset=20), {}, set())


def test_an_operator_without_older_version_is_an_error() -> None:
    model, session = make_traced()
    session.opset = 8
    helper = onnx.helper
    node = helper.make_node("HardSwish", ["y"], ["z"])
    model.graph.node.append(node)
    model.graph.output[0].name = "z"
    with pytest.raises(ExportError, match="opset_version=8: .* pass opset_version=20"):
        finish(model, session, {"custom": 2}, set())
