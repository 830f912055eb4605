"""Quantizers that leave a tensor in floating point."""

from __future__ import annotations

import torch

import brevitas.nn as qnn
from brevitas.quant.none import (
    NoneActQuant,
    NoneBiasQuant,
    NoneClampQuant,
    NoneTruncQuant,
    NoneWeightQuant,
)
from quant_tensors import make


def test_nothing_is_quantized() -> None:
    layer = qnn.QuantLinear(6, 4, weight_quant=NoneWeightQuant, bias_quant=NoneBiasQuant)
    x = torch.randn(5, 6)
    assert not layer.weight_quant.is_quant_enabled and not layer.bias_quant.is_quant_enabled
    assert torch.equal(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))
    assert torch.equal(qnn.QuantIdentity(act_quant=NoneActQuant)(x), x)
    assert torch.equal(qnn.QuantReLU(act_quant=NoneActQuant)(x), x.relu())
    assert list(layer.state_dict()) == ["weight", "bias"]


def test_accumulators_keep_their_bits() -> None:
    x, _ = make((3,), bit_width=12)
    assert qnn.TruncQuantAccumulator(trunc_quant=NoneTruncQuant)(x) is x
    assert qnn.ClampQuantAccumulator(clamp_quant=NoneClampQuant)(x) is x
