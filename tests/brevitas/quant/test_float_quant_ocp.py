"""OCP formats: codes and the largest number follow from the bits."""

from __future__ import annotations

import pytest
import torch

import brevitas.nn as qnn
from brevitas.quant import Fp8e4m3OCPAct, Fp8e5m2OCPAct, FpOCPActPerTensorFloat, FpOCPWeight

FORMATS = {
    (4, 3): (448.0, None, ("111",)),
    (5, 2): (57344.0, ("00",), ("01", "11", "10")),
    (3, 2): (28.0, None, None),
    (2, 3): (7.5, None, None),
    (2, 1): (6.0, None, None),
    (2, 0): (4.0, None, None),
}


@pytest.mark.parametrize(("bits", "expected"), FORMATS.items())
def test_formats(
    bits: tuple[int, int], expected: tuple[float, tuple[str, ...] | None, tuple[str, ...] | None]
) -> None:
    exponent, mantissa = bits
    layer = qnn.QuantLinear(
        2,
        3,
        weight_quant=FpOCPWeight,
        weight_exponent_bit_width=exponent,
        weight_mantissa_bit_width=mantissa,
        weight_bit_width=1 + exponent + mantissa,
    )
    layer.weight.data.fill_(1e9)
    weight = layer.quant_weight()
    assert (weight.value[0, 0].item(), weight.inf_values, weight.nan_values) == expected
    assert weight.is_valid


def test_the_types_of_torch() -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 200
    for quantizer, dtype in (
        (Fp8e4m3OCPAct, torch.float8_e4m3fn),
        (Fp8e5m2OCPAct, torch.float8_e5m2),
    ):
        inside = x.clamp(-440, 440)
        assert torch.equal(qnn.QuantIdentity(quantizer)(inside), inside.to(dtype).float())


def test_values_beyond_the_range() -> None:
    x = torch.tensor([1e6, -1e6, float("inf"), 1.0])
    e5m2 = qnn.QuantIdentity(Fp8e5m2OCPAct, saturating=False)(x)
    assert e5m2.tolist() == [float("inf"), -float("inf"), float("inf"), 1.0]
    e4m3 = qnn.QuantIdentity(Fp8e4m3OCPAct, saturating=False)(x)
    assert e4m3[:3].isnan().all() and e4m3[3] == 1.0
    assert qnn.QuantIdentity(Fp8e4m3OCPAct)(x).tolist() == [448.0, -448.0, 448.0, 1.0]


def test_a_format_of_few_bits_has_no_codes_to_overflow_to() -> None:
    e3m2 = {"exponent_bit_width": 3, "mantissa_bit_width": 2, "bit_width": 6}
    with pytest.raises(ValueError, match="saturating=False"):
        qnn.QuantIdentity(FpOCPActPerTensorFloat, saturating=False, **e3m2)
