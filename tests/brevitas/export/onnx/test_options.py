"""Options are checked before a model runs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from brevitas.export import (
    export_onnx_qcdq,
    export_onnx_qop,
    export_qonnx,
    export_torch_qcdq,
    export_torch_qop,
)
from brevitas.export.onnx._options import check_options
from brevitas.nn import QuantIdentity

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("opset", "opset_version"),
        ("opset_versoin", "opset_version"),
        ("input_name", "input_names"),
        ("export_weight_qnode", "export_weight_q_node"),
        ("path", "export_path"),
    ],
)
def test_an_unknown_keyword_is_named_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(TypeError, match=rf"^{name}=18: unknown keyword; did you mean {nearest}\?$"):
        export_onnx_qcdq(QuantIdentity(), torch.ones(2), **{name: 18})


def test_without_a_near_name_all_are_listed() -> None:
    with pytest.raises(TypeError, match=r"expected .*dynamic_shapes.*opset_version"):
        export_qonnx(QuantIdentity(), torch.ones(2), zzz=1)


def test_options_of_another_target_are_unknown() -> None:
    with pytest.raises(TypeError, match="export_weight_q_node=True: unknown keyword"):
        export_qonnx(QuantIdentity(), torch.ones(2), export_weight_q_node=True)


@pytest.mark.parametrize("export", [export_qonnx, export_onnx_qcdq, export_onnx_qop])
@pytest.mark.parametrize("opset", [99, 9, 0, -1, "18", 18.0, True])
def test_an_opset_that_does_not_exist(export, opset: object) -> None:
    newest = onnx.defs.onnx_opset_version()
    with pytest.raises(ValueError, match=rf"opset_version={opset!r}: .* from 10 to {newest}"):
        export(QuantIdentity(), torch.ones(2), opset_version=opset)


def test_what_is_accepted() -> None:
    check_options({})
    check_options({"opset_version": None, "verbose": True, "dynamic_axes": {}})
    check_options({"opset_version": onnx.defs.onnx_opset_version(), "mine": 1}, ["mine"])


@pytest.mark.parametrize(
    "export",
    [export_qonnx, export_onnx_qcdq, export_onnx_qop, export_torch_qcdq, export_torch_qop],
)
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (QuantIdentity, "got the class QuantIdentity; make an instance"),
        (torch.ones(2), "got Tensor; the model comes first"),
        (None, "got NoneType"),
    ],
)
def test_only_a_module_can_be_exported(export, model: object, message: str) -> None:
    with pytest.raises(TypeError, match=f"expected a torch.nn.Module, {message}"):
        export(model, args=torch.ones(2))


def test_a_plain_module_is_one() -> None:
    assert [node.op_type for node in export_qonnx(nn.ReLU(), torch.ones(2)).graph.node] == ["Relu"]
