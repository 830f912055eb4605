"""Scales and zero points of the shifted quantizers, against their formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import brevitas.nn as qnn
from brevitas.quant.shifted_scaled_int import (
    ShiftedUint8ActPerTensorFixedPoint,
    ShiftedUint8ActPerTensorFloat,
    ShiftedUint8WeightPerChannelFloat,
    ShiftedUint8WeightPerTensorFloat,
)


@pytest.mark.parametrize("offset", [-3.0, 0.0, 3.0])
@pytest.mark.parametrize("bits", [4, 8])
def test_weights(offset: float, bits: int) -> None:
    for quantizer in (ShiftedUint8WeightPerTensorFloat, ShiftedUint8WeightPerChannelFloat):
        layer = qnn.QuantLinear(6, 4, weight_quant=quantizer, weight_bit_width=bits)
        layer.weight.data.add_(offset)
        weight = layer.weight.detach()
        per_channel = quantizer is ShiftedUint8WeightPerChannelFloat
        low = weight.amin(1, keepdim=True) if per_channel else weight.min()
        high = weight.amax(1, keepdim=True) if per_channel else weight.max()
        quantized = layer.quant_weight()
        limit = 2**bits - 1
        # The zero point is an integer of the range, so the interval reaches down to zero at least.
        low = low.clamp(max=0)
        scale = (high - low).abs() / limit
        assert torch.equal(quantized.scale, scale)
        assert torch.equal(quantized.zero_point, (-low / scale).round().clamp(0, limit))
        integer = (weight / scale + quantized.zero_point).round().clamp(0, limit)
        assert torch.equal(quantized.value, (integer - quantized.zero_point) * scale)
        assert torch.equal(quantized.int().float(), integer)


@pytest.mark.parametrize(
    "quantizer", [ShiftedUint8ActPerTensorFloat, ShiftedUint8ActPerTensorFixedPoint]
)
@pytest.mark.parametrize("offset", [-3.0, 0.0, 3.0])
def test_activations(quantizer: Any, offset: float) -> None:
    quant = qnn.QuantIdentity(act_quant=quantizer, collect_stats_steps=1, return_quant_tensor=True)
    x = torch.randn(100) + offset
    low, high = x.min().clamp(max=0), x.max()
    for step in ("collected", "learned", "evaluated"):
        y = quant.train(step != "evaluated")(x)
        interval, divisor = (high - low).abs(), 255
        if quantizer is ShiftedUint8ActPerTensorFixedPoint:
            divisor = 256
            interval = interval if step == "collected" else 2.0 ** interval.log2().ceil()
        # Logarithm and power are exact to a few units in the last place.
        torch.testing.assert_close(y.scale, interval / divisor, rtol=8 * 1.2e-7, atol=0.0)
        assert torch.equal(y.zero_point, (-low / y.scale).round().clamp(0, 255))
        assert not y.signed and y.is_valid
