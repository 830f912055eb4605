"""No format of files holds minifloats yet: each export refuses them by name, and writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import brevitas.nn as qnn
from brevitas.export import (
    export_onnx_qcdq,
    export_onnx_qop,
    export_qonnx,
    export_torch_qcdq,
    export_torch_qop,
)
from brevitas.export.common.spec import ExportError
from brevitas.export.inference.manager import quant_inference_mode
from brevitas.proxy.float_parameter_quant import BiasFloatQuantProxyFromInjector
from brevitas.quant import Fp8e4m3OCPActPerTensorFloat, Fp8e4m3OCPWeightPerTensorFloat
from brevitas.quant.float_base import FloatBase, Fp8e4m3Mixin
from brevitas.quant.solver import BiasQuantSolver

EXPORTS = [export_onnx_qcdq, export_onnx_qop, export_qonnx, export_torch_qcdq, export_torch_qop]


class Bias(Fp8e4m3Mixin, FloatBase, BiasQuantSolver):
    """A bias without a scale."""

    proxy_class = BiasFloatQuantProxyFromInjector


LAYERS = {
    "weight_quant": lambda: qnn.QuantLinear(8, 4, weight_quant=Fp8e4m3OCPWeightPerTensorFloat),
    "bias_quant": lambda: qnn.QuantLinear(8, 4, bias_quant=Bias),
    "act_quant": lambda: qnn.QuantIdentity(Fp8e4m3OCPActPerTensorFloat),
}


@pytest.mark.parametrize("export", EXPORTS)
@pytest.mark.parametrize(("proxy", "build"), LAYERS.items())
def test_refused_by_name(
    export: Callable[..., Any], proxy: str, build: Callable[[], nn.Module], tmp_path: Path
) -> None:
    model, path = nn.Sequential(build()).eval(), tmp_path / "model"
    with pytest.raises(ExportError, match=rf"no representation of .*Float.*Layer: 0\.{proxy}"):
        export(model, args=torch.ones(2, 8), export_path=str(path))
    assert not path.exists()
    # The model is as it was.
    assert model(torch.ones(2, 8)).isfinite().all()


def test_inference_mode_changes_nothing() -> None:
    model = nn.Sequential(LAYERS["act_quant"](), LAYERS["weight_quant"]())
    x = torch.randn(3, 8)
    model(x)
    expected = model.eval()(x)
    with torch.no_grad(), quant_inference_mode(model):
        assert torch.equal(model(x), expected)
    assert torch.equal(model(x), expected)
