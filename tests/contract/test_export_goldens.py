"""Exported graphs equal the recorded ones: operators, attributes, constants, outputs."""

from __future__ import annotations

import json
import warnings
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import contract_data
from brevitas.export import export_onnx_qcdq, export_qonnx
from export_runtime import initializers, operators, run_onnxruntime, run_qonnx

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

Case = dict[str, Any]

SOURCES = (
    "brevitas.nn",
    "brevitas.quant",
    "brevitas.quant.scaled_int",
    "brevitas.quant.shifted_scaled_int",
    "brevitas.quant.fixed_point",
    "brevitas.inject.enum",
)
CASES = [
    "linear_w8",
    "linear_w8_nobias",
    "linear_w4",
    "linear_w2",
    "linear_in8",
    "linear_in8_out8",
    "linear_in4_w4_out4",
    "linear_w16",
    "conv1d_w4_in8_out8_b16_seed",
    "conv1d_w4_seed",
    "conv1d_shifted_w7_seed",
    "conv2d_in8_out8_b32",
    "conv2d_same_strided",
    "convt2d",
    "act_identity",
    "act_identity_b4",
    "act_identity_uint8",
    "act_identity_shifted",
    "act_identity_fixed",
    "act_identity_floor",
    "act_identity_binary",
    "act_relu",
    "act_relu_b4",
    "act_sigmoid",
    "act_tanh",
    "maxpool",
    "seq_cnn",
    "seq_mlp_floatbias",
    "trunc_avg_pool",
    "trunc_adaptive",
]
TYPICAL = {
    "linear_in4_w4_out4",
    "conv1d_shifted_w7_seed",
    "act_identity_binary",
    "act_relu_b4",
    "seq_cnn",
}
# Rounding to the floor, which the recorded program turned into rounding to the nearest without a
# word; and -1 and 1 without the 0 between them, which both refuse.
REFUSED_IN_QCDQ = {"act_identity_floor", "act_identity_binary"}


@lru_cache
def index() -> dict[str, Any]:
    path = contract_data.contract_path("onnx_goldens/index.json")
    if path is None:
        pytest.skip("onnx_goldens not found; set BREVITAS_CONTRACT_DIR")
    return json.loads(Path(path).read_text())


def build(name: str) -> tuple[nn.Module, Tensor, Tensor, Case]:
    """Make the seeded model of a case, its input and its output in PyTorch."""
    case = index()["cases"][name]
    namespace: dict[str, Any] = {"torch": torch, "nn": nn}
    for source in SOURCES:
        namespace.update(vars(import_module(source)))
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, x = eval(case["build"], namespace), eval(case["input"], namespace)
        with torch.no_grad():
            model.train()(x)
            y = model.eval()(x)
    return model, x, getattr(y, "value", y), case


def constants_of(graph: Case, node: Case) -> list[Any]:
    """Look up the recorded constants that a recorded node reads."""
    items = [graph["initializers"][int(i[5:])] for i in node["inputs"] if i.startswith("init:")]
    return [(item["shape"], item["values"]) for item in items]


def assert_same_constants(graph: Case, exported: Any) -> None:
    values = initializers(exported)
    for expected, node in zip(graph["nodes"], exported.graph.node, strict=True):
        found = [values[name] for name in node.input if name in values]
        recorded = constants_of(graph, expected)
        assert [list(item.shape) for item in found] == [shape for shape, _ in recorded]
        for tensor, (_, recorded_values) in zip(found, recorded, strict=True):
            if recorded_values is not None:
                flat = torch.tensor(recorded_values, dtype=torch.float64)
                # The same statistics of the same float32 weights, perhaps summed in another order.
                torch.testing.assert_close(
                    tensor.double().reshape(-1), flat.reshape(-1), rtol=1e-5, atol=1e-8
                )


def attributes(node: Any) -> dict[str, Any]:
    texts = {a.name: (a.s.decode() if a.s else a.i) for a in node.attribute}
    return {name: texts[name] for name in ("signed", "narrow", "rounding_mode") if name in texts}


def marked(names: list[str]) -> list[Any]:
    """Leave all but a few typical cases to the long run: each takes about a second."""
    return [
        name if name in TYPICAL else pytest.param(name, marks=pytest.mark.long) for name in names
    ]


@pytest.mark.parametrize("name", marked(CASES))
def test_qonnx(name: str) -> None:
    model, x, y, case = build(name)
    recorded = case["exports"]["qonnx"]
    exported = export_qonnx(model, input_t=x)
    assert operators(exported) == recorded["op_type_sequence"]
    assert_same_constants(recorded, exported)
    for expected, node in zip(recorded["nodes"], exported.graph.node, strict=True):
        if node.op_type == "Quant":
            assert attributes(node) == expected["attributes"]
    imports = {item.domain: item.version for item in exported.opset_import}
    assert imports == {item["domain"]: item["version"] for item in recorded["opset_imports"]}
    assert exported.ir_version == recorded["ir_version"]
    torch.testing.assert_close(run_qonnx(exported, x), y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", marked([n for n in CASES if n not in REFUSED_IN_QCDQ]))
def test_qcdq(name: str) -> None:
    model, x, y, case = build(name)
    exported = export_onnx_qcdq(model, input_t=x)
    torch.testing.assert_close(run_onnxruntime(exported, x), y, rtol=1e-5, atol=1e-6)
    recorded = case["exports"]["qcdq_dynamo_false"]
    if "error" not in recorded:
        assert quantization(operators(exported)) == quantization(recorded["op_type_sequence"])


@pytest.mark.parametrize("name", marked(["linear_in4_w4_out4", "linear_in8", "maxpool"]))
def test_qcdq_with_float_weights(name: str) -> None:
    model, x, y, case = build(name)
    recorded = case["exports"]["qcdq"]
    exported = export_onnx_qcdq(model, input_t=x, export_weight_q_node=True)
    assert operators(exported) == recorded["op_type_sequence"]
    assert_same_constants(recorded, exported)
    torch.testing.assert_close(run_onnxruntime(exported, x), y, rtol=1e-5, atol=1e-6)


def quantization(names: list[str]) -> list[str]:
    """Keep the operators that quantize; float ones are spelled differently by each tracer."""
    return [name for name in names if name in ("QuantizeLinear", "Clip", "DequantizeLinear")]


def test_qonnx_clean_up_keeps_the_outputs() -> None:
    model, x, y, _ = build("seq_cnn")
    exported = export_qonnx(model, input_t=x)
    torch.testing.assert_close(run_qonnx(exported, x, clean_up=True), y, rtol=1e-5, atol=1e-6)


def test_qonnx_reads_qcdq() -> None:
    qcdq_to_qonnx = pytest.importorskip("qonnx.transformation.qcdq_to_qonnx")
    wrapper = pytest.importorskip("qonnx.core.modelwrapper")
    model, x, y, _ = build("seq_cnn")
    # It reads the width of a weight from a Clip behind QuantizeLinear, not behind integers.
    exported = export_onnx_qcdq(model, input_t=x, export_weight_q_node=True)
    quantizers = sum(name == "DequantizeLinear" for name in operators(exported))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = wrapper.ModelWrapper(exported).transform(qcdq_to_qonnx.QCDQToQuant())
    assert sum(node.op_type == "Quant" for node in wrapped.graph.node) == quantizers
    torch.testing.assert_close(run_qonnx(wrapped.model, x), y, rtol=1e-5, atol=1e-6)
