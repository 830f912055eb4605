"""What each QONNX handler writes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from brevitas.export import export_qonnx
from brevitas.export.common.spec import ExportError, QuantSpec
from brevitas.export.onnx.qonnx.handler import QONNXActHandler, QONNXWeightHandler
from brevitas.inject.enum import FloatToIntImplType
from brevitas.nn import QuantIdentity, QuantLinear
from brevitas.proxy.runtime_quant import DynamicActQuantProxyFromInjector
from brevitas.quant import Int8ActPerTensorFloat
from export_runtime import initializers, operators, run_qonnx


def test_rounding_without_a_name_in_qonnx_is_refused() -> None:
    handler = QONNXActHandler()
    with pytest.raises(ExportError, match=r"rounding_mode='DPU'.*Layer: fc"):
        handler.plan(QuantSpec(0.5, 0.0, 8, True, False, "DPU", "fc"))


def test_weights_of_an_unnamed_rounding_are_written_rounded() -> None:
    handler = QONNXWeightHandler()
    spec = QuantSpec(0.5, 0.0, 4, True, True, "LearnedRoundSte")
    x, value = torch.tensor([0.2, 0.9]), torch.tensor([0.5, 0.5])
    data, plan = handler.constant(x, value, spec)
    assert torch.equal(data, value)
    assert plan.rounding_mode == "ROUND"
    assert torch.equal(handler.node(x, data, plan), value)
    with pytest.raises(ExportError, match="whole multiples"):
        handler.constant(x, torch.tensor([0.3, 0.5]), spec)


@pytest.mark.parametrize("rounding", ["FLOOR", "CEIL", "ROUND_TO_ZERO", "DPU"])
def test_weight_rounding(rounding: str) -> None:
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    layer = QuantLinear(
        4, 3, weight_bit_width=3, weight_float_to_int_impl_type=FloatToIntImplType[rounding]
    ).eval()
    x = torch.randn(2, 4)
    exported = export_qonnx(layer, x)
    assert operators(exported) == ["qonnx.custom_op.general::Quant", "Gemm"]
    torch.testing.assert_close(run_qonnx(exported, x), layer(x), rtol=1e-5, atol=1e-6)


def test_a_dynamic_scale_is_computed_in_the_graph() -> None:
    pytest.importorskip("onnxscript")

    class Dynamic(nn.Module):
        def forward(self, x: Tensor) -> tuple[Any, ...]:
            scale = x.abs().amax((0, 1)) / 127
            value = torch.clamp(torch.round(x / scale), -127, 127) * scale
            return value, scale, torch.tensor(0.0), torch.tensor(8.0)

    torch.manual_seed(0)
    model = dynamic_identity(Dynamic())
    exported = export_qonnx(model, torch.randn(2, 4))
    for factor in (0.1, 10.0):
        x = factor * torch.randn(2, 4)
        torch.testing.assert_close(run_qonnx(exported, x), model(x), rtol=1e-5, atol=0.0)


def dynamic_identity(tensor_quant: nn.Module) -> nn.Module:
    """Make an activation whose quantizer finds its scale anew for each input."""

    class DynamicAct(Int8ActPerTensorFloat):
        proxy_class = DynamicActQuantProxyFromInjector
        narrow_range = True

    model = QuantIdentity(act_quant=DynamicAct).eval()
    quantizer = model.act_quant.fused_activation_quant_proxy
    tensor_quant.int_quant = quantizer.tensor_quant.int_quant
    quantizer.tensor_quant = tensor_quant
    return model


def test_constants_are_shared() -> None:
    pytest.importorskip("onnxscript")
    model = nn.Sequential(QuantIdentity(), QuantIdentity())
    model(torch.ones(2))
    model[1].load_state_dict(model[0].state_dict())
    exported = export_qonnx(model, torch.ones(2))
    assert sorted(initializers(exported)) == [
        "0.act_quant.bit_width",
        "0.act_quant.scale",
        "0.act_quant.zero_point",
    ]
    assert len(exported.graph.node) == 2
