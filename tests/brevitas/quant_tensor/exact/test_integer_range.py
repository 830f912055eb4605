"""Tests of interval arithmetic against enumeration, on the host and as tensors."""

from __future__ import annotations

import itertools
import operator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from brevitas.quant_tensor.exact import _integer_range as ranges
from brevitas.quant_tensor.exact._integer_range import IntegerRange

formats = st.tuples(st.integers(1, 5), st.booleans())


def all_integers(bits, signed):
    low = -(2 ** (bits - 1)) if signed else 0
    return range(low, low + 2**bits)


def learned(held: IntegerRange) -> IntegerRange:
    """The same range as the tensors that a learned bit width gives."""
    low, high = (torch.tensor(float(end), dtype=torch.float64) for end in held[:2])
    return IntegerRange(low, high, held.signed)


def extremes(held: IntegerRange) -> tuple[float, float]:
    return torch.as_tensor(held.low).item(), torch.as_tensor(held.high).item()


@pytest.mark.parametrize("kind", [lambda held: held, learned], ids=["numbers", "tensors"])
@given(formats, formats)
def test_ends_are_those_of_all_results(kind, first, second):
    a, b = (kind(ranges.range_of_register(*form)) for form in (first, second))
    pairs = list(itertools.product(all_integers(*first), all_integers(*second)))
    for method, function in (
        (IntegerRange.plus, operator.add),
        (IntegerRange.minus, operator.sub),
        (IntegerRange.times, operator.mul),
    ):
        results = [function(*pair) for pair in pairs]
        assert extremes(method(a, b)) == (min(results), max(results))
    union = [*all_integers(*first), *all_integers(*second)]
    assert extremes(a.union(b)) == (min(union), max(union))
    assert extremes(a.summed(3)) == tuple(3 * end for end in extremes(a))


@given(st.integers(-(2**52), 0), st.integers(0, 2**52))
def test_bit_width_is_the_smallest(low, high):
    held = IntegerRange(low, high, True)
    bits = held.bit_width(True)
    assert -(2 ** (bits - 1)) <= low and high <= 2 ** (bits - 1) - 1
    assert bits == 1 or low < -(2 ** (bits - 2)) or high > 2 ** (bits - 2) - 1
    assert learned(held).bit_width(True) == bits
    unsigned = held.bit_width(False)
    assert high <= 2**unsigned - 1 and (unsigned == 1 or high > 2 ** (unsigned - 1) - 1)
    assert learned(held).bit_width(False) == unsigned


@pytest.mark.parametrize("exponent", range(53))
def test_bit_width_next_to_powers_of_two(exponent):
    for high in (2**exponent - 1, 2**exponent):
        held = IntegerRange(0, high, False)
        assert learned(held).bit_width(False) == max(high.bit_length(), 1)
        below = IntegerRange(-high, 0, True)
        assert learned(below).bit_width(True) == below.bit_width(True)


@pytest.mark.parametrize(
    ("first", "second", "bits", "signed"),
    [((6, False), (8, False), 9, False), ((8, True), (8, False), 10, True)],
)
def test_bit_width_of_sums(first, second, bits, signed):
    total = ranges.range_of_register(*first).plus(ranges.range_of_register(*second))
    assert (total.bit_width(total.signed), total.signed) == (bits, signed)


def test_a_learned_bit_width_gets_a_gradient():
    bits = torch.tensor(8.0, requires_grad=True)
    held = ranges.range_of_format(bits, True)
    assert extremes(held) == (-128, 127)
    result = held.plus(held).bit_width(True)
    assert result == 9
    # log2(2 * 2**(b - 1)) + 1 grows by one with b.
    assert torch.autograd.grad(result, bits)[0] == 1


def test_formats_of_several_bit_widths_hold_the_widest():
    held = ranges.range_of_format(torch.tensor([[4.0], [8.0]]), False)
    assert extremes(held) == (0, 255)


def test_values_are_rounded_and_signed_if_negative():
    low, high = torch.tensor([0.2, 3.0]), torch.tensor([4.0, 9.7])
    assert ranges.range_of_values(low, high, torch.floor, None) == IntegerRange(0, 9, False)
    assert ranges.range_of_values(low, high, torch.ceil, True) == IntegerRange(1, 10, True)
    assert ranges.range_of_values(low - 4, high, torch.round, None) == IntegerRange(-4, 10, True)
    empty = torch.ones(0)
    assert ranges.range_of_values(empty, empty, torch.round, None) == IntegerRange(0, 0, False)


@given(
    st.integers(-(2**18), 2**18),
    st.integers(-(2**18), 2**18),
    st.floats(1e-6, 1e6),
    st.floats(-0.2, 0.2),
)
def test_narrow_integers_are_told_apart_in_float32(integer, zero_point, scale, off):
    """What `is_narrow` promises: the value of a valid tensor rounds to its integer."""
    scale = torch.tensor(scale)
    value = ((integer + off - zero_point) * scale.double()).float()
    assert ranges.is_narrow(IntegerRange(integer, integer, True), float(zero_point))
    assert torch.round(value / scale + zero_point) == integer


def test_narrow_is_only_what_the_host_knows():
    narrow = IntegerRange(-128, 127, True)
    assert not ranges.is_narrow(IntegerRange(0, 2**18 + 1, False), 0.0)
    assert not ranges.is_narrow(learned(narrow), 0.0)
    assert not ranges.is_narrow(narrow, torch.tensor([0.0, 2.0**19]))
    assert ranges.is_narrow(narrow, torch.ones(0))
