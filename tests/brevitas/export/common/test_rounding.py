"""The formulas of the specs, against formulas written here."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from brevitas.export.common.rounding import (
    fake_quantize,
    fake_quantize_float,
    is_faithful,
    quantize,
    round_as,
)
from brevitas.export.common.spec import ExportError, FloatSpec, QuantSpec

FLOATS = st.floats(-100.0, 100.0, width=32)


@given(FLOATS, st.integers(2, 16), st.booleans(), st.booleans(), st.sampled_from([0.25, 0.1]))
def test_fake_quantize_is_idempotent_and_on_the_grid(
    value: float, bits: int, signed: bool, narrow: bool, scale: float
) -> None:
    spec = QuantSpec(scale, 0.0, bits, signed, narrow)
    x = torch.tensor([value])
    once = fake_quantize(x, spec)
    assert torch.equal(fake_quantize(once, spec), once)
    integers = quantize(x, spec)
    assert torch.equal(integers, torch.round(integers))
    assert spec.minimum <= float(integers) <= spec.maximum


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("ROUND", [2.0, -2.0, 0.0]),
        ("FLOOR", [1.0, -2.0, 0.0]),
        ("CEIL", [2.0, -1.0, 1.0]),
        ("ROUND_TO_ZERO", [1.0, -1.0, 0.0]),
    ],
)
def test_rounding_modes(mode: str, expected: list[float]) -> None:
    x = torch.tensor([1.5, -1.5, 0.5])
    assert round_as(mode.lower(), "")(x).tolist() == expected


def test_unknown_rounding_names_the_layer() -> None:
    with pytest.raises(ExportError, match=r"rounding_mode='DPU'.*Layer: fc"):
        round_as("DPU", "fc")


def test_binary_has_no_zero() -> None:
    spec = QuantSpec(0.5, 0.0, 1, True, True)
    assert fake_quantize(torch.tensor([-1e-9, 0.0, 7.0]), spec).tolist() == [-0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("dtype", "exponent", "mantissa", "bias", "largest"),
    [(torch.float8_e4m3fn, 4, 3, 7, 448.0), (torch.float8_e5m2, 5, 2, 15, 57344.0)],
)
def test_float_equals_the_cast_of_torch(
    dtype: torch.dtype, exponent: int, mantissa: int, bias: int, largest: float
) -> None:
    torch.manual_seed(0)
    spec = FloatSpec(1.0, exponent, mantissa, bias, largest, has_inf=False, has_nan=True)
    # All magnitudes, subnormal ones included, up to the largest.
    x = torch.randn(4096) * torch.exp2(torch.empty(4096).uniform_(-18, 6))
    x = x.clamp(-largest, largest)
    assert torch.equal(fake_quantize_float(x, spec), x.to(dtype).to(torch.float32))


def test_float_of_zero_is_zero() -> None:
    spec = FloatSpec(0.5, 4, 3, 7, 448.0, has_inf=False, has_nan=True)
    assert fake_quantize_float(torch.zeros(3), spec).tolist() == [0.0, 0.0, 0.0]


def test_faithful_forgives_ties_only() -> None:
    spec = QuantSpec(1.0, 0.0, 4, True, False)
    assert is_faithful(torch.tensor([0.5]), torch.tensor([1.0]), spec)
    assert not is_faithful(torch.tensor([0.4]), torch.tensor([1.0]), spec)
    floor = torch.floor(torch.linspace(-3, 3, 50))
    assert not is_faithful(torch.linspace(-3, 3, 50), floor, spec)
