"""Power-of-two scales, against their formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import brevitas.nn as qnn
from brevitas.quant.fixed_point import (
    Int8ActPerTensorFixedPoint,
    Int8ActPerTensorFixedPointMinMaxInit,
    Int8BiasPerTensorFixedPointInternalScaling,
    Int8WeightPerChannelFixedPoint,
    Int8WeightPerTensorFixedPoint,
    Uint8ActPerTensorFixedPoint,
    Uint8ActPerTensorFixedPointMaxInit,
)


def _power_above(x: Tensor) -> Tensor:
    return 2.0 ** x.log2().ceil()


@pytest.mark.parametrize("bits", [3, 8])
def test_weights(bits: int) -> None:
    for quantizer in (Int8WeightPerTensorFixedPoint, Int8WeightPerChannelFixedPoint):
        layer = qnn.QuantLinear(6, 4, weight_quant=quantizer, weight_bit_width=bits)
        maximum = layer.weight.detach().abs().max()
        if quantizer is Int8WeightPerChannelFixedPoint:
            maximum = layer.weight.detach().abs().amax(1, keepdim=True)
        weight = layer.quant_weight()
        assert torch.equal(weight.scale, _power_above(maximum) / 2 ** (bits - 1))
        # Rounding the scale up leaves room for the largest weight, the step below the power apart.
        limit = (2 ** (bits - 1) - 1) * weight.scale
        bound = torch.maximum(weight.scale / 2, (layer.weight.detach().abs() - limit))
        assert ((weight.value - layer.weight).abs() <= bound).all()


@pytest.mark.parametrize(
    ("quantizer", "power"), [(Int8ActPerTensorFixedPoint, 128), (Uint8ActPerTensorFixedPoint, 256)]
)
def test_activations(quantizer: Any, power: int) -> None:
    quant = qnn.QuantIdentity(act_quant=quantizer, collect_stats_steps=1, return_quant_tensor=True)
    x = torch.randn(100)
    # The first batch is seen at its real scale, the learned one is a power of two.
    assert torch.equal(quant(x).scale, x.abs().max() / power)
    for training in (True, False):
        assert torch.equal(quant.train(training)(x).scale, _power_above(x.abs().max()) / power)


def test_activations_from_a_range() -> None:
    quant = qnn.QuantIdentity(
        act_quant=Int8ActPerTensorFixedPointMinMaxInit, min_val=-2.5, max_val=5.0
    )
    assert quant.act_quant.scale().item() == 8.0 / 128
    quant = qnn.QuantReLU(act_quant=Uint8ActPerTensorFixedPointMaxInit, max_val=5.0)
    assert quant.act_quant.scale().item() == 8.0 / 256


def test_bias() -> None:
    layer = qnn.QuantLinear(6, 4, bias_quant=Int8BiasPerTensorFixedPointInternalScaling)
    scale = layer.bias_quant(layer.bias).scale.reshape(())
    assert torch.equal(scale, _power_above(layer.bias.detach().abs().max()) / 128)
