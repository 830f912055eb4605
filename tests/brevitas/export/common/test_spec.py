"""Properties of the frozen specs."""

from __future__ import annotations

import pytest
import torch

from brevitas.export.common.spec import ExportError, FloatSpec, QuantSpec


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("narrow", [True, False])
def test_range_counts_the_codes(bits: int, signed: bool, narrow: bool) -> None:
    spec = QuantSpec(0.5, 0.0, bits, signed, narrow)
    if spec.is_binary:
        assert (spec.minimum, spec.maximum) == (-1, 1)
        return
    assert spec.maximum - spec.minimum + 1 == 2**bits - narrow
    assert (spec.minimum < 0) == signed
    if signed and narrow:
        assert spec.minimum == -spec.maximum


@pytest.mark.parametrize("bits", [0.0, 2.5, -1.0])
def test_bit_width_must_be_whole(bits: float) -> None:
    with pytest.raises(ExportError, match=r"bit_width=.*Layer: encoder\.fc1"):
        QuantSpec(0.5, 0.0, bits, True, False, name="encoder.fc1")


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_validate_rejects_a_scale_without_meaning(scale: float) -> None:
    with pytest.raises(ExportError, match=r"positive finite.*Layer: fc"):
        QuantSpec(torch.tensor([1.0, scale]), 0.0, 8, True, False, name="fc").validate()


def test_tensors_leave_autograd() -> None:
    scale = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
    spec = QuantSpec(scale, 0.0, 8, True, False)
    assert spec.scale.dtype == torch.float32
    assert not spec.scale.requires_grad
    plain = torch.tensor(0.5)
    assert QuantSpec(plain, 0.0, 8, True, False).scale is plain


def test_with_scale_changes_the_scale_only() -> None:
    spec = QuantSpec(0.5, 3.0, 4, False, True, "FLOOR", "fc")
    other = spec.with_scale(torch.tensor(2.0))
    assert float(other.scale) == 2.0
    assert (other.bits, other.signed, other.narrow_range) == (4, False, True)
    assert (other.rounding_mode, other.name, float(other.zero_point)) == ("FLOOR", "fc", 3.0)


def test_float_spec_counts_its_bits() -> None:
    assert FloatSpec(1.0, 5, 2, 15, 57344.0, has_inf=True, has_nan=True).bits == 8
