"""Handlers of integer operators."""

from __future__ import annotations

import pytest
import torch

from brevitas.export.common.session import ExportSession
from brevitas.export.common.spec import ExportError, QuantSpec
from brevitas.export.onnx.standard.qoperator.handler import QOpActHandler, QOpWeightHandler


def _spec(bits: int, scale: torch.Tensor | float = 0.5) -> QuantSpec:
    zero_point = torch.zeros(scale.shape) if isinstance(scale, torch.Tensor) else 0.0
    return QuantSpec(scale, zero_point, bits, True, False, name="quant")


def test_activations_have_one_scale_and_8_bits() -> None:
    handler = QOpActHandler()
    handler.session = ExportSession(opset=21)
    assert handler.plan(_spec(4)).grid.zero_point.dtype == torch.int8
    with pytest.raises(ExportError, match="bit_width=9.*Layer: quant"):
        handler.plan(_spec(9))
    with pytest.raises(ExportError, match="one scale.*Layer: quant"):
        handler.plan(_spec(8, torch.ones(1, 3, 1)))


def test_weights_are_stored_in_8_bits_and_not_clipped() -> None:
    handler = QOpWeightHandler()
    plan = handler.plan(_spec(3))
    value = torch.tensor([-2.0, 1.5])
    data, plan = handler.constant(value, value, plan)
    assert data is not None and data.dtype == torch.int8
    assert torch.equal(handler.node(value, data, plan), value)
    with pytest.raises(ExportError, match="bit_width=9.*weight_bit_width"):
        handler.plan(_spec(9))
