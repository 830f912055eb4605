"""Tests of overflow against NumPy's fixed-width integers."""

from __future__ import annotations

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from brevitas.quant_tensor.exact import _overflow as overflow
from brevitas.quant_tensor.exact._integer_range import range_of_register

FIXED = {
    (8, True): numpy.int8,
    (8, False): numpy.uint8,
    (16, True): numpy.int16,
    (16, False): numpy.uint16,
}
wide = st.lists(st.integers(-(2**52), 2**52), min_size=1, max_size=20)


@given(wide, st.sampled_from(list(FIXED)))
def test_wrap_is_twos_complement(integers, kind):
    register = range_of_register(*kind)
    wrapped = overflow.wrap(torch.tensor(integers, dtype=torch.float64), register, False)
    expected = numpy.array(integers, dtype=numpy.int64).astype(FIXED[kind])
    assert wrapped.tolist() == expected.tolist()


@given(wide, st.integers(1, 52), st.booleans())
def test_wrap_of_any_width_keeps_the_lowest_bits(integers, bits, signed):
    low = -(2 ** (bits - 1)) if signed else 0
    wrapped = overflow.wrap(
        torch.tensor(integers, dtype=torch.float64), range_of_register(bits, signed), False
    )
    assert wrapped.tolist() == [(q - low) % 2**bits + low for q in integers]


@given(wide, st.integers(1, 52), st.booleans())
def test_saturate_gives_the_nearest_integer(integers, bits, signed):
    register = range_of_register(bits, signed)
    result = overflow.saturate(torch.tensor(integers, dtype=torch.float64), register, False)
    assert result.tolist() == [min(max(q, register.low), register.high) for q in integers]


def test_refuse_names_what_it_found():
    register = range_of_register(4, True)
    integers = torch.tensor([-8.0, 7.0])
    assert overflow.refuse(integers, register, False) is integers
    with pytest.raises(RuntimeError, match="found -9 to 7, accepted -8 to 7.*bit_width="):
        overflow.refuse(integers - torch.tensor([1.0, 0.0]), register, False)
