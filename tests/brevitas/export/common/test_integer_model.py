"""What integer operators ask of a whole model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from brevitas.export import export_onnx_qop, export_torch_qop
from brevitas.export.common.integer_model import check_integer_model
from brevitas.export.common.spec import ExportError
from brevitas.nn import QuantLinear
from brevitas.quant import Int8ActPerTensorFloat

QUANT: dict[str, Any] = {
    "input_quant": Int8ActPerTensorFloat,
    "output_quant": Int8ActPerTensorFloat,
}


def test_quantized_and_float_layers_in_float32_are_fine() -> None:
    model = nn.Sequential(nn.Linear(2, 2), QuantLinear(2, 2, **QUANT))
    check_integer_model(model, (torch.ones(1, 2), torch.ones(1).int(), {"mask": None}))


@pytest.mark.parametrize("export", [export_onnx_qop, export_torch_qop])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_types_are_refused(export: Any, dtype: torch.dtype) -> None:
    model = nn.Sequential(QuantLinear(2, 2, **QUANT)).to(dtype)
    with pytest.raises(ExportError, match=rf"dtype={dtype}.*model\.float\(\).*Layer: 0\.weight$"):
        export(model, torch.ones(1, 2, dtype=dtype))


def test_inputs_of_other_types_are_refused() -> None:
    with pytest.raises(ExportError, match=r"dtype=torch\.float64.*example input in float32"):
        check_integer_model(nn.ReLU(), ({"x": torch.ones(1).double()},))


def test_weights_in_floating_point_are_refused() -> None:
    with pytest.raises(ExportError, match="weight_quant=None.*Layer: 0$"):
        check_integer_model(nn.Sequential(QuantLinear(2, 2, weight_quant=None)), ())
