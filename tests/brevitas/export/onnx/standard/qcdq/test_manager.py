"""The QCDQ target."""

from __future__ import annotations

import pytest
import torch

from brevitas.export import StdQCDQONNXDynamoManager, StdQCDQONNXManager, export_onnx_qcdq
from brevitas.export.common.spec import ExportError
from brevitas.nn import QuantIdentity, QuantLinear
from brevitas.quant import Int8ActPerTensorFloat
from export_runtime import run_onnxruntime


def test_names() -> None:
    assert StdQCDQONNXDynamoManager is StdQCDQONNXManager
    assert export_onnx_qcdq == StdQCDQONNXManager.export


def test_the_option_for_weights_is_taken_out() -> None:
    options = {"export_weight_q_node": True, "verbose": True}
    assert StdQCDQONNXManager.new_session(options).weight_quantize_node
    assert options == {"verbose": True}
    assert not StdQCDQONNXManager.new_session({}).weight_quantize_node


@pytest.mark.parametrize("bits", [12, 16])
def test_16_bits_need_opset_21(bits: int) -> None:
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    model = QuantLinear(
        4, 3, weight_bit_width=bits, input_quant=Int8ActPerTensorFloat, input_bit_width=bits
    ).eval()
    x = torch.randn(8, 4)
    with pytest.raises(ExportError, match=r"opset_version=21.*Layer: input_quant"):
        export_onnx_qcdq(model, x)
    exported = export_onnx_qcdq(model, x, opset_version=21)
    torch.testing.assert_close(run_onnxruntime(exported, x), model(x), rtol=1e-5, atol=1e-6)


def test_values_beyond_a_short_width_are_clipped() -> None:
    pytest.importorskip("onnxscript")
    model = QuantIdentity(bit_width=12).eval()
    x = torch.linspace(-100, 100, 64)
    exported = export_onnx_qcdq(model, x, opset_version=21)
    assert torch.equal(run_onnxruntime(exported, x), model(x))
