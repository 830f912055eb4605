"""Inference handlers compute what the quantizers do."""

from __future__ import annotations

import pytest
import torch

from brevitas import config
from brevitas.export.inference import handler as handler_module
from brevitas.export.inference.handler import IntInferenceHandler, is_handled
from brevitas.nn import QuantIdentity, QuantLinear
from brevitas.ops.region import compiler_works
from brevitas.quant import Int8ActPerTensorFloat, ShiftedUint8ActPerTensorFloat


@pytest.mark.parametrize("act_quant", [Int8ActPerTensorFloat, ShiftedUint8ActPerTensorFloat])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activation(act_quant: type, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = QuantIdentity(act_quant=act_quant, bit_width=4)
    layer(torch.randn(64))
    layer.eval()
    handler = IntInferenceHandler()
    handler.prepare_for_export(layer.act_quant)
    x = torch.randn(64).to(dtype)
    value, *metadata = handler(x)
    assert torch.equal(value, layer(x))
    assert [float(item) for item in metadata] == [
        float(layer.act_quant.scale()),
        float(layer.act_quant.zero_point()),
        4.0,
    ]
    assert torch.equal(handler.dequantize(handler.quantize(x)).to(dtype), value)


@pytest.mark.skipif(not compiler_works(), reason="no C++ compiler")
def test_an_activation_is_compiled_where_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = QuantIdentity(), torch.randn(64)
    layer(x)
    handler = IntInferenceHandler()
    handler.prepare_for_export(layer.eval().act_quant)
    expected = handler(x)[0]
    monkeypatch.setattr(handler_module, "fake_quant", None)
    with config.overrides(JIT_ENABLED=True):
        assert torch.equal(handler(x)[0], expected)


def test_nothing_enters_checkpoints() -> None:
    handler = IntInferenceHandler()
    handler.prepare_for_export(QuantIdentity().eval().act_quant)
    assert handler.state_dict() == {}
    assert handler.state_dict(destination={"a": 1}) == {"a": 1}


def test_other_quantizers_run_as_they_are() -> None:
    proxy = QuantLinear(2, 2).weight_quant
    assert is_handled(proxy)
    proxy.tensor_quant = torch.nn.Identity()
    assert not is_handled(proxy)
