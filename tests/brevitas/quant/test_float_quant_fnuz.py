"""FNUZ formats: the exponent bias is one more, and all exponents stand for numbers."""

from __future__ import annotations

import pytest
import torch

import brevitas.nn as qnn
from brevitas.quant import Fp8e4m3FNUZAct, Fp8e5m2FNUZAct, FpFNUZWeightPerTensorFloat


def test_the_types_of_torch() -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 100
    for quantizer, dtype, largest in (
        (Fp8e4m3FNUZAct, torch.float8_e4m3fnuz, 240.0),
        (Fp8e5m2FNUZAct, torch.float8_e5m2fnuz, 57344.0),
    ):
        act, inside = qnn.QuantIdentity(quantizer), x.clamp(-230, 230)
        assert torch.equal(act(inside), inside.to(dtype).float())
        assert act(torch.tensor([1e9, -1e9])).tolist() == [largest, -largest]


@pytest.mark.parametrize(("exponent", "mantissa"), [(4, 3), (3, 2), (2, 1)])
def test_any_bits(exponent: int, mantissa: int) -> None:
    layer = qnn.QuantLinear(
        8,
        4,
        weight_quant=FpFNUZWeightPerTensorFloat,
        weight_exponent_bit_width=exponent,
        weight_mantissa_bit_width=mantissa,
        weight_bit_width=1 + exponent + mantissa,
    )
    weight = layer.quant_weight()
    assert weight.exponent_bias == 2 ** (exponent - 1)
    largest = (2 - 2.0**-mantissa) * 2.0 ** (2**exponent - 1 - 2 ** (exponent - 1))
    expected = layer.weight.detach().abs().max() / largest
    torch.testing.assert_close(weight.scale, expected, rtol=1e-6, atol=0)
