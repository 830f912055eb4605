"""Integer thresholds against their closed forms."""

from __future__ import annotations

import pytest
import torch

from brevitas.core.scaling import IntScaling, PowerOfTwoIntScaling


def _threshold(signed: bool, narrow_range: bool, bits: int) -> int:
    """Largest magnitude in the range."""
    return 2 ** (bits - 1) - narrow_range if signed else 2**bits - 1 - narrow_range


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_thresholds(bits: int, signed: bool) -> None:
    bit_width = torch.tensor(float(bits))
    for narrow_range in (False, True):
        expected = _threshold(signed, narrow_range, bits)
        at_construction = IntScaling(narrow_range, signed)(bit_width)
        at_call = IntScaling(narrow_range)(bit_width, signed)
        as_tensor = IntScaling(narrow_range)(bit_width, torch.tensor(signed))
        assert at_construction == at_call == as_tensor == expected
    power = 2 ** (bits - 1) if signed else 2**bits
    assert PowerOfTwoIntScaling(signed)(bit_width) == power
    assert PowerOfTwoIntScaling()(bit_width, torch.tensor(signed)) == power


def test_gradient_of_the_bit_width() -> None:
    for scaling, factor in ((IntScaling(True, True), 0.5), (PowerOfTwoIntScaling(False), 1.0)):
        bit_width = torch.tensor(4.0, requires_grad=True)
        scaling(bit_width).backward()
        # d/db factor * 2**b = factor * ln(2) * 2**b
        expected = factor * torch.log(torch.tensor(2.0)) * 2.0**4
        torch.testing.assert_close(bit_width.grad, expected)


def test_dtype() -> None:
    assert IntScaling(True, True, torch.float64)(torch.tensor(8.0)).dtype is torch.float64


def test_signedness_must_be_known() -> None:
    for scaling in (IntScaling(True), PowerOfTwoIntScaling()):
        with pytest.raises(ValueError, match="signed=None: expected True or False"):
            scaling(torch.tensor(8.0))
