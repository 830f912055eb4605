"""The TorchScript target."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from brevitas.export import export_torch_qcdq
from brevitas.nn import QuantConv2d, QuantIdentity, QuantReLU
from brevitas.quant import Int32Bias

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::Warning")


def test_the_trace_computes_what_the_model_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        QuantIdentity(return_quant_tensor=True),
        QuantConv2d(3, 4, 3, bias_quant=Int32Bias, weight_bit_width=4),
        QuantReLU(bit_width=4),
    )
    x = torch.randn(1, 3, 6, 6)
    model(x)
    model.eval()
    path = tmp_path / "model.pt"
    traced = export_torch_qcdq(model, x, path)
    x = torch.randn(1, 3, 6, 6)
    assert torch.equal(traced(x), model(x))
    assert torch.equal(torch.jit.load(path)(x), model(x))
    assert model[1].weight_quant.export_handler is None
