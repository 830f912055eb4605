"""The QONNX target."""

from __future__ import annotations

import pytest
import torch

from brevitas.export import QONNXDynamoManager, QONNXManager, export_brevitas_onnx, export_qonnx
from brevitas.export.onnx.qonnx.handler import QONNXWeightHandler
from brevitas.nn import QuantLinear


def test_old_names_are_the_same_target() -> None:
    assert QONNXDynamoManager is QONNXManager
    assert export_brevitas_onnx == export_qonnx == QONNXManager.export


def test_handlers_are_found_by_proxy() -> None:
    layer = QuantLinear(2, 2)
    assert QONNXManager.handler_from_module(layer.weight_quant) is QONNXWeightHandler


def test_shapes_of_quantized_tensors_are_stated() -> None:
    pytest.importorskip("onnxscript")
    exported = export_qonnx(QuantLinear(4, 3).eval(), torch.ones(2, 4))
    (node,) = [node for node in exported.graph.node if node.op_type == "Quant"]
    shapes = {
        item.name: [dim.dim_value for dim in item.type.tensor_type.shape.dim]
        for item in exported.graph.value_info
    }
    assert shapes[node.output[0]] == [3, 4]
