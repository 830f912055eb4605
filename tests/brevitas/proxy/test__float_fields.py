"""What proxies of minifloats say of their format, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import brevitas.nn as qnn
from brevitas.proxy._float_fields import check_scaled_range, check_stated_bits
from brevitas.quant import (
    Fp8e4m3FNUZWeight,
    Fp8e4m3OCPWeight,
    Fp8e4m3Weight,
    Fp8e5m2FNUZWeight,
    Fp8e5m2OCPWeight,
    FpFNUZWeightPerTensorFloat,
    FpOCPWeight,
    FpOCPWeightPerTensorFloat,
)

NAMES = ("is_ocp_e4m3", "is_ocp_e5m2", "is_ocp", "is_fnuz_e4m3", "is_fnuz_e5m2", "is_fnuz")
FORMATS: list[tuple[Any, set[str]]] = [
    (Fp8e4m3Weight, set()),
    (Fp8e4m3OCPWeight, {"is_ocp_e4m3", "is_ocp"}),
    (Fp8e5m2OCPWeight, {"is_ocp_e5m2", "is_ocp"}),
    (Fp8e4m3FNUZWeight, {"is_fnuz_e4m3", "is_fnuz"}),
    (Fp8e5m2FNUZWeight, {"is_fnuz_e5m2", "is_fnuz"}),
    (Fp8e4m3OCPWeight.let(signed=False), set()),
]


@pytest.mark.parametrize(("quantizer", "expected"), FORMATS)
def test_well_known_formats(quantizer: Any, expected: set[str]) -> None:
    proxy = qnn.QuantLinear(2, 3, weight_quant=quantizer).weight_quant
    assert {name for name in NAMES if getattr(proxy, name)} == expected
    proxy.disable_quant = True
    assert not any(getattr(proxy, name) for name in NAMES)


def test_fields() -> None:
    layer = qnn.QuantLinear(2, 3, weight_quant=Fp8e5m2OCPWeight)
    proxy, weight = layer.weight_quant, layer.quant_weight()
    assert proxy.exponent_bit_width() == 5 and proxy.mantissa_bit_width() == 2
    assert proxy.exponent_bias() == 15 and proxy.zero_point() == 0 and proxy.scale() == 1
    assert proxy.inf_values() == ("00",) and proxy.nan_values() == ("01", "11", "10")
    assert proxy.is_saturating() is True and proxy.is_signed is True
    assert proxy.bit_width() == 8 and proxy.rounding_mode == "ROUND"
    assert weight.signed and weight.saturating and weight.exponent_bias == 15
    assert torch.equal(weight.value, layer.weight.to(torch.float8_e5m2).float())
    proxy.disable_quant = True
    assert proxy.scale() is proxy.bit_width() is proxy.inf_values() is None


def test_unsigned_formats_have_no_sign_bit() -> None:
    layer = qnn.QuantLinear(2, 3, weight_quant=Fp8e4m3Weight, weight_signed=False)
    assert layer.weight_quant.bit_width() == 7 and not layer.quant_weight().signed
    assert (layer.quant_weight().value >= 0).all()


def test_keywords_choose_the_format() -> None:
    keywords = {"weight_exponent_bit_width": 2, "weight_mantissa_bit_width": 1}
    for quantizer in (Fp8e4m3Weight, FpOCPWeight):
        weight = qnn.QuantLinear(2, 3, weight_quant=quantizer, **keywords).quant_weight()
        assert weight.exponent_bit_width == 2 and weight.mantissa_bit_width == 1
    qnn.QuantLinear(2, 3, weight_quant=Fp8e4m3Weight, **keywords, weight_bit_width=4)
    with pytest.raises(ValueError, match=r"weight_bit_width=8: expected 4, 1 \(sign\) \+ 2"):
        qnn.QuantLinear(2, 3, weight_quant=Fp8e4m3Weight, **keywords, weight_bit_width=8)


def test_bits_that_do_not_fit_are_refused() -> None:
    for stated in (4, 7, 9):
        with pytest.raises(ValueError, match=f"bit_width={stated}: expected 8.* set exponent"):
            check_stated_bits(Fp8e4m3Weight.let(bit_width=stated))
    with pytest.raises(ValueError, match="weight_bit_width=6: expected 8.*Layer: QuantLinear"):
        qnn.QuantLinear(2, 3, weight_quant=Fp8e4m3Weight, weight_bit_width=6)
    check_stated_bits(Fp8e4m3Weight.let(signed=False))  # says nothing of the whole


def test_a_format_that_does_not_saturate_needs_a_code() -> None:
    with pytest.raises(ValueError, match="saturating=False"):
        qnn.QuantLinear(2, 3, weight_quant=Fp8e4m3Weight, weight_saturating=False)
    layer = qnn.QuantLinear(2, 3, weight_quant=Fp8e4m3OCPWeight, weight_saturating=False)
    layer.weight.data.fill_(500.0)
    assert layer.quant_weight().value.isnan().all() and layer.weight_quant.is_saturating() is False


@pytest.mark.parametrize("bits", [8, 9, 11])
def test_a_scale_that_would_be_zero_is_refused(bits: int) -> None:
    declared = {"bit_width": bits + 3, "exponent_bit_width": bits, "mantissa_bit_width": 2}
    keywords = {f"weight_{name}": number for name, number in declared.items()}
    with pytest.raises(ValueError, match=f"weight_exponent_bit_width={bits}.*Layer: QuantLinear"):
        qnn.QuantLinear(4, 3, weight_quant=FpOCPWeightPerTensorFloat, **keywords)


def test_the_widest_formats_with_a_scale() -> None:
    declared = {"bit_width": 11, "exponent_bit_width": 8, "mantissa_bit_width": 2}
    infinite = {"inf_values": ("00",), "nan_values": ("01", "10", "11")}
    for quantizer in (
        FpFNUZWeightPerTensorFloat.let(**declared),
        FpOCPWeightPerTensorFloat.let(**declared, **infinite),
        FpOCPWeightPerTensorFloat.let(**declared, exponent_bias=128),
    ):
        check_scaled_range(quantizer)
        weight = qnn.QuantLinear(4, 3, weight_quant=quantizer).quant_weight()
        assert weight.value.isfinite().all() and (weight.scale > 0).all()
    # Without a scale nothing is divided.
    declared |= {"bit_width": 14, "exponent_bit_width": 11}
    keywords = {f"weight_{name}": number for name, number in declared.items()}
    assert qnn.QuantLinear(4, 3, weight_quant=FpOCPWeight, **keywords).quant_weight().is_valid
