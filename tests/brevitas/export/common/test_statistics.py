"""An export says which quantizers hold placeholders; calibration or training silences it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from brevitas.export import export_onnx_qcdq, export_qonnx, export_torch_qcdq
from brevitas.export.common.statistics import quantizers_without_statistics
from brevitas.graph.calibrate import calibration_mode
from brevitas.nn import QuantIdentity, QuantLinear, QuantReLU
from brevitas.quant import Int8ActPerTensorFloat, ShiftedUint8ActPerTensorFloat

EXPORTS = [
    pytest.param(export_qonnx, id="qonnx"),
    pytest.param(export_onnx_qcdq, id="qcdq"),
    pytest.param(export_torch_qcdq, id="torch_qcdq"),
]


def two_layers() -> nn.Module:
    return nn.Sequential(
        QuantIdentity(),
        nn.Sequential(QuantLinear(4, 3, input_quant=Int8ActPerTensorFloat)),
        QuantReLU(act_quant=None),
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("export", EXPORTS)
def test_an_export_without_data_warns_once(export: Callable[..., Any]) -> None:
    pytest.importorskip("onnxscript")
    with pytest.warns(UserWarning, match="calibration_mode") as caught:
        export(two_layers(), args=torch.ones(1, 4))
    (message,) = [str(item.message) for item in caught if "statistics" in str(item.message)]
    assert "Layers: 0.act_quant, 1.0.input_quant" in message


def test_the_warning_points_at_the_caller() -> None:
    pytest.importorskip("onnxscript")
    with pytest.warns(UserWarning, match="statistics") as caught:
        export_qonnx(two_layers(), args=torch.ones(1, 4))
    assert caught[0].filename == __file__


def test_a_long_list_is_cut() -> None:
    pytest.importorskip("onnxscript")
    model = nn.Sequential(*[QuantIdentity() for _ in range(10)])
    with pytest.warns(UserWarning, match=r"^10 quantizers.* 7\.act_quant and 2 more$"):
        export_qonnx(model, args=torch.ones(1))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("export", EXPORTS)
def test_one_training_step_is_data(export: Callable[..., Any]) -> None:
    pytest.importorskip("onnxscript")
    model = two_layers()
    model(torch.randn(2, 4))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*collected no statistics")
        export(model, args=torch.ones(1, 4))
    assert all(module.training for module in model.modules())


def test_calibration_and_checkpoints_are_data() -> None:
    model = nn.Sequential(QuantIdentity(act_quant=ShiftedUint8ActPerTensorFloat)).eval()
    assert quantizers_without_statistics(model) == ["0.act_quant"]
    with torch.no_grad(), calibration_mode(model):
        model(torch.randn(8))
    assert quantizers_without_statistics(model) == []
    loaded = nn.Sequential(QuantIdentity(act_quant=ShiftedUint8ActPerTensorFloat))
    loaded.load_state_dict(model.state_dict())
    assert quantizers_without_statistics(loaded) == []


def test_a_bare_layer_goes_by_its_proxy() -> None:
    assert quantizers_without_statistics(QuantIdentity()) == ["act_quant"]
    assert quantizers_without_statistics(QuantIdentity().act_quant) == ["ActQuantProxyFromInjector"]


def test_quantizers_that_are_switched_off_are_told(tmp_path) -> None:
    model = nn.Sequential(QuantIdentity(), QuantLinear(3, 2))
    x = torch.randn(4, 3)
    model(x)
    with calibration_mode(model), pytest.warns(UserWarning, match="switched off.*0.act_quant"):
        export_qonnx(model, args=x, export_path=tmp_path / "off.onnx")
    export_qonnx(model, args=x, export_path=tmp_path / "on.onnx")
