"""The largest minifloat as a threshold, and exponents rounded as a minifloat rounds."""

from __future__ import annotations

import pytest
import torch

from brevitas.core.bit_width import BitWidthConst
from brevitas.core.bit_width.float import MantissaBitWidthConst
from brevitas.core.scaling import FloatScaling, RoundMidMaxSte


@pytest.mark.parametrize(
    ("available", "expected"), [(None, 480.0), (448.0, 448.0), (1e9, 480.0), (1e39, 480.0)]
)
def test_largest_minifloat(available: float | None, expected: float) -> None:
    scaling = FloatScaling(available, None, ("111",), False)
    e4m3 = (torch.tensor(number, requires_grad=True) for number in (4.0, 1.875, 7.0))
    assert scaling(*e4m3) == expected and not scaling.state_dict()
    assert (scaling.inf_values, scaling.nan_values, scaling.saturating) == (None, ("111",), False)


@pytest.mark.parametrize("mantissa", range(5))
@pytest.mark.parametrize("bias", [-1.0, 0.0, 1.0])
def test_exponents_are_rounded_at_the_midpoint(mantissa: int, bias: float) -> None:
    """Up from the midpoint of the largest significand and 2, half its step below 2."""
    if mantissa - bias < 0:
        return  # a mantissa counts as shorter than it is
    part = RoundMidMaxSte(MantissaBitWidthConst(mantissa), bias)
    midpoint = 2 - 2.0 ** -(mantissa - bias) / 2
    values = torch.tensor([1.0, midpoint - 1e-3, midpoint + 1e-3, 2.0, 3.0 * midpoint])
    expected = [0.0, 0.0, 1.0, 1.0]
    assert part(torch.log2(values))[:4].tolist() == expected


def test_the_gradient_passes() -> None:
    x = torch.tensor([0.3, 1.97, -2.2], requires_grad=True)
    RoundMidMaxSte(BitWidthConst(2))(x).sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 1.0]
