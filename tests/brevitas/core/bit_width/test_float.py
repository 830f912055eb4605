"""What a minifloat format is made of equals formulas written here."""

from __future__ import annotations

import math

import pytest
import torch

from brevitas.core.bit_width import BitWidthConst, BitWidthParameter
from brevitas.core.bit_width.float import (
    ComputeExponentBias,
    ComputeMaxMantissa,
    MantissaBitWidthConst,
    StaticExponentBias,
    StaticMaxMantissa,
)


def test_a_mantissa_may_have_no_bits() -> None:
    assert MantissaBitWidthConst(0)() == 0 and MantissaBitWidthConst(10).number == 10
    with pytest.raises(ValueError, match="mantissa_bit_width=-1: expected an int >= 0"):
        MantissaBitWidthConst(-1)


@pytest.mark.parametrize("bias", [7, 0, -3, 6.5, torch.tensor(15.0)])
def test_exponent_bias(bias: float | torch.Tensor) -> None:
    part = StaticExponentBias(bias, dtype=torch.float64)
    assert part() == bias and part().dtype is torch.float64 and not part.state_dict()


@pytest.mark.parametrize("bias", ["7", None, True])
def test_an_exponent_bias_is_a_number(bias: object) -> None:
    with pytest.raises(TypeError, match="exponent_bias=.*expected a number"):
        StaticExponentBias(bias)  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", range(1, 9))
def test_exponent_bias_of_bits(bits: int) -> None:
    assert ComputeExponentBias(BitWidthConst(bits))() == 2 ** (bits - 1) - 1


def test_exponent_bias_of_learned_bits_has_a_gradient() -> None:
    learned = BitWidthParameter(4)
    ComputeExponentBias(learned)().backward()
    assert learned.bit_width_offset.grad.item() == pytest.approx(8 * math.log(2))


@pytest.mark.parametrize("bits", range(11))
def test_largest_significand(bits: int) -> None:
    expected = sum(2.0**-k for k in range(bits + 1))
    given = torch.tensor(float(bits))
    assert StaticMaxMantissa(bits)(given) == ComputeMaxMantissa()(given) == expected
    assert ComputeMaxMantissa(torch.nn.Hardtanh(0, 3))(given) == sum(
        2.0**-k for k in range(min(bits, 3) + 1)
    )
