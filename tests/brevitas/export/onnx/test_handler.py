"""Handlers observe real values and replay them under a trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from brevitas.export import export_onnx_qcdq, export_qonnx
from brevitas.export.common.session import ExportSession
from brevitas.export.common.spec import ExportError, QuantSpec
from brevitas.export.manager import export_mode
from brevitas.export.onnx.handler import intern
from brevitas.export.onnx.qonnx.manager import QONNXManager
from brevitas.nn import QuantIdentity, QuantLinear
from brevitas.quant import Int8ActPerTensorFloat, Int32Bias
from export_runtime import operators


def calibrated(model: nn.Module, *shape: int) -> nn.Module:
    with torch.no_grad():
        model.train()(torch.randn(*shape or (2,)))
    return model.eval()


def test_a_model_in_export_mode_computes_the_same() -> None:
    torch.manual_seed(0)
    model = QuantLinear(4, 3, input_quant=Int8ActPerTensorFloat, bias_quant=Int32Bias)
    x = torch.randn(2, 4)
    model(x)
    model.eval()
    expected = model(x)
    with export_mode(QONNXManager, model):
        assert torch.equal(model(x), expected)


def test_a_trace_needs_the_pass_with_real_values() -> None:
    model = calibrated(QuantIdentity())
    with export_mode(QONNXManager, model):
        with pytest.raises(Exception, match="run the model once in export mode"):
            torch.export.export(model, (torch.randn(2),))


def test_an_exporter_of_ones_own_gets_final_nodes() -> None:
    model = calibrated(QuantIdentity())
    x = torch.randn(2)
    with export_mode(QONNXManager, model):
        model(x)
        program = torch.export.export(model, (x,))
    (call,) = [node for node in program.graph.nodes if "symbolic" in str(node.target)]
    assert call.args[1] == "Quant"
    assert call.kwargs["domain"] == "qonnx.custom_op.general"


def test_a_quantizer_that_is_not_affine_is_refused() -> None:
    class Doubling(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return 2 * x, torch.tensor(0.5), torch.tensor(0.0), torch.tensor(8.0)

    model = nn.Sequential(QuantIdentity()).eval()
    model[0].act_quant.fused_activation_quant_proxy.tensor_quant = Doubling()
    with export_mode(QONNXManager, model):
        with pytest.raises(ExportError, match=r"uniform steps.*Layer: 0\.act_quant"):
            model(torch.randn(8))


def test_interned_specs_share_their_tensors() -> None:
    session = ExportSession(opset=18)
    first, second = (intern(QuantSpec(0.5, 0.0, 8, True, False), session) for _ in range(2))
    assert first.scale is second.scale
    assert first.zero_point is second.zero_point
    assert first.bit_width is second.bit_width


def test_kept_values_do_not_hide_a_quantizer() -> None:
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    model = QuantLinear(4, 3, input_quant=Int8ActPerTensorFloat, bias_quant=Int32Bias)
    calibrated(model, 2, 4)
    model.weight_quant.cache_inference_quant_weight = True
    model.bias_quant.cache_inference_quant_bias = True
    x = torch.randn(2, 4)
    model(x)
    kept = model.bias_quant._cached_bias
    assert operators(export_qonnx(model, x)) == [*["qonnx.custom_op.general::Quant"] * 3, "Gemm"]
    assert model.bias_quant._cached_bias is kept
    assert model.weight_quant.cache_inference_quant_weight


@pytest.mark.parametrize("export", [export_qonnx, export_onnx_qcdq])
@pytest.mark.parametrize("role", ["weight", "input"])
def test_a_draw_is_not_frozen(export: Any, role: str) -> None:
    options = {
        f"{role}_float_to_int_impl_type": "stochastic_round",
        f"{role}_deterministic_inference": False,
    }
    model = nn.Sequential(QuantLinear(4, 3, input_quant=Int8ActPerTensorFloat, **options))
    calibrated(model, 2, 4)
    with pytest.raises(ExportError, match=rf"draws anew.*set it to True.*Layer: 0\.{role}_quant"):
        export(model, torch.randn(2, 4))
