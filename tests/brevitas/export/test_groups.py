"""Scales per group are refused by every format, by name and with a remedy; no file is written."""

from __future__ import annotations

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
from brevitas.quant import (
    Int8ActPerTensorFloat,
    MXFloat8e4m3Act,
    MXFloat8e4m3Weight,
    MXInt8Act,
    MXInt8Weight,
    ShiftedMXUInt8Weight,
)

EXPORTS = [export_qonnx, export_onnx_qcdq, export_onnx_qop, export_torch_qcdq, export_torch_qop]
LAYERS = {
    "weight_quant": [MXInt8Weight, ShiftedMXUInt8Weight, MXFloat8e4m3Weight],
    "input_quant": [MXInt8Act, MXFloat8e4m3Act],
    "output_quant": [MXInt8Act, MXFloat8e4m3Act],
}
CASES = [(role, quantizer) for role, quantizers in LAYERS.items() for quantizer in quantizers]


@pytest.mark.parametrize("export", EXPORTS)
@pytest.mark.parametrize(("role", "quantizer"), CASES)
def test_groups_are_refused(export: Any, role: str, quantizer: Any, tmp_path: Path) -> None:
    others = {"input_quant": Int8ActPerTensorFloat} if role != "input_quant" else {}
    layer = qnn.QuantLinear(8, 4, **{**others, role: quantizer})
    network = nn.Sequential(nn.Identity(), layer)
    network(torch.randn(2, 8))
    network.eval()
    expected = rf"(use a scale per|replace the quantizer).*Layer: 1\.{role}"
    with pytest.raises(ExportError, match=expected):
        export(network, torch.randn(2, 8), str(tmp_path / "model"))
    assert not list(tmp_path.iterdir())
