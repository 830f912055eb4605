"""Debug hooks record by module name."""

from __future__ import annotations

import torch
from torch import nn

from brevitas.export import enable_debug
from brevitas.nn import QuantIdentity, QuantLinear
from brevitas.quant_tensor import IntQuantTensor


def make_model() -> nn.Sequential:
    return nn.Sequential(QuantIdentity(return_quant_tensor=True), QuantLinear(4, 3)).eval()


def test_layers_are_recorded() -> None:
    model = make_model()
    hook = enable_debug(model)
    x = torch.randn(2, 4)
    y = model(x)
    assert sorted(hook.values) == ["0.input", "0.output", "1.input", "1.output"]
    assert hook.values["0.input"] is x
    assert isinstance(hook.values["1.input"], IntQuantTensor)
    assert hook.values["1.output"] is y
    hook.clear()
    assert hook.values == {}


def test_proxies_are_recorded_on_request() -> None:
    model = make_model()
    hook = enable_debug(model, input_enabled=False, proxy_level=True)
    model(torch.randn(2, 4))
    assert "1.weight_quant.output" in hook.values
    assert "0.act_quant.output" in hook.values
    assert not any(name.endswith(".input") for name in hook.values)
    assert model[1].export_debug_name == "1"
    assert model[1].weight_quant.export_output_debug
