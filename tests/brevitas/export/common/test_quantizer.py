"""Finding the quantizer of a proxy."""

from __future__ import annotations

from brevitas.export.common.quantizer import quantizer_of
from brevitas.nn import QuantIdentity, QuantLinear


def test_weight_and_activation() -> None:
    weight = QuantLinear(2, 2).weight_quant
    assert quantizer_of(weight) is weight.tensor_quant
    act = QuantIdentity().act_quant
    assert quantizer_of(act) is act.fused_activation_quant_proxy.tensor_quant
