"""The small declarations of minifloats combine to quantizers of one's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import brevitas.nn as qnn
from brevitas.inject.enum import ScalingPerOutputType
from brevitas.quant import float_base
from brevitas.quant.float_base import (
    FloatActBase,
    FloatWeightBase,
    ScaledFloatActBase,
    ScaledFloatWeightBase,
)

BITS = {
    "Fp8e4m3Mixin": (8, 4, 3),
    "Fp8e5m2Mixin": (8, 5, 2),
    "Fp6e3m2Mixin": (6, 3, 2),
    "Fp6e2m3Mixin": (6, 2, 3),
    "Fp4e2m1Mixin": (4, 2, 1),
}


@pytest.mark.parametrize("name", BITS)
def test_formats(name: str) -> None:
    mixin: Any = getattr(float_base, name)
    bits, exponent, mantissa = BITS[name]
    assert (mixin.bit_width, mixin.exponent_bit_width, mixin.mantissa_bit_width) == BITS[name]

    class Weight(mixin, FloatWeightBase):
        pass

    proxy = qnn.QuantLinear(2, 3, weight_quant=Weight).weight_quant
    assert proxy.bit_width() == bits and proxy.exponent_bias() == 2 ** (exponent - 1) - 1
    assert proxy.mantissa_bit_width() == mantissa


def test_with_a_scale() -> None:
    class Weight(float_base.Fp4e2m1Mixin, ScaledFloatWeightBase):
        scaling_per_output_type = ScalingPerOutputType.CHANNEL

    weight = qnn.QuantLinear(8, 4, weight_quant=Weight).quant_weight()
    assert weight.scale.shape == (4, 1)
    grid = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    numbers = (weight.value / weight.scale).abs().flatten()
    assert ((numbers[:, None] - grid).abs().min(1).values < 1e-5).all()

    class Act(float_base.Fp4e2m1Mixin, ScaledFloatActBase):
        scaling_per_output_type = ScalingPerOutputType.TENSOR

    act = qnn.QuantIdentity(Act, return_quant_tensor=True)
    assert act(torch.tensor([3.0, -0.1])).scale.item() == pytest.approx(0.5)


def test_without_a_scale() -> None:
    class Act(float_base.Fp6e2m3Mixin, FloatActBase):
        pass

    assert qnn.QuantIdentity(Act)(torch.tensor([7.4, 100.0, -0.07])).tolist() == [7.5, 7.5, -0.125]


@pytest.mark.parametrize("kind", ["parameter", "stateful_const"])
def test_bits_that_are_learned_or_stored(kind: str) -> None:
    class Weight(float_base.Fp8e4m3Mixin, FloatWeightBase):
        pass

    types = {f"weight_{name}_bit_width_impl_type": kind for name in ("exponent", "mantissa")}
    layer = qnn.QuantLinear(8, 4, weight_quant=Weight, **types)
    plain = qnn.QuantLinear(8, 4, weight_quant=Weight)
    plain.weight.data.copy_(layer.weight.data)
    assert torch.equal(layer.quant_weight().value, plain.quant_weight().value)
    suffix = "bit_width_offset" if kind == "parameter" else "bit_width"
    prefix = "weight_quant.tensor_quant."
    keys = [f"{prefix}{name}_bit_width_impl.{suffix}" for name in ("exponent", "mantissa")]
    assert [key for key in layer.state_dict() if key.startswith(prefix)] == keys
    if kind == "parameter":
        layer(torch.randn(2, 8)).square().sum().backward()
        assert dict(layer.named_parameters())[keys[1]].grad is not None
