"""Tests of accumulator bit widths: no worst case overflows them."""

from __future__ import annotations

import doctest
from math import prod

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from brevitas.quant_tensor import _accumulator as module


def test_doctests():
    assert doctest.testmod(module, extraglobs={"torch": torch}).failed == 0


@given(st.integers(1, 16), st.integers(1, 16), st.integers(1, 5000))
def test_smallest_bit_width_of_an_unsigned_sum(b1, b2, terms):
    largest = terms * (2**b1 - 1) * (2**b2 - 1)
    bits = module.sum_bit_width((torch.tensor(float(b1)), torch.tensor(float(b2))), terms)
    assert bits == largest.bit_length()


@given(st.integers(2, 12), st.integers(2, 12), st.integers(1, 5000), st.booleans())
def test_signed_sums_fit(b1, b2, terms, both_signed):
    bits = module.sum_bit_width((torch.tensor(float(b1)), torch.tensor(float(b2))), terms).item()
    worst = terms * 2 ** (b1 - 1) * 2 ** (b2 - 1)
    if not both_signed:
        worst = terms * (2 ** (b1 - 1) - 1) * (2**b2 - 1)
    assert worst <= 2 ** (bits - 1) - 1


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5000))
def test_sums_with_the_lowest_signed_integer_fit(signed, unsigned, terms):
    pair = torch.tensor(float(signed)), torch.tensor(float(unsigned))
    counted = module.sum_bit_width(pair, terms)
    bits = module.with_lowest_integer(counted, *pair, terms)
    worst = terms * 2 ** (signed - 1) * (2**unsigned - 1)
    assert worst <= 2 ** (bits.item() - 1)
    # Not one bit more than is needed by this sum, or by one of unsigned integers.
    assert bits == counted or worst > 2 ** (bits.item() - 2)
    learned = module.with_lowest_integer(counted, pair[0].requires_grad_(), pair[1], terms)
    assert learned == bits


def test_learned_bit_widths_agree_and_get_gradients():
    for terms in (1, 3, 9, 100):
        fixed, learned = torch.tensor(5.0), torch.tensor(5.0, requires_grad=True)
        expected = module.sum_bit_width((fixed, fixed), terms)
        actual = module.sum_bit_width((learned, fixed), terms)
        assert actual == expected
        actual.backward()
        assert learned.grad > 0


@given(st.integers(1, 16), st.integers(1, 5000), st.booleans())
def test_smallest_bit_width_of_a_pooled_sum(b, elements, signed):
    bits = module.max_acc_bit_width_avg_pool2d(torch.tensor(float(b)), elements, signed).item()
    smallest = elements * -(2 ** (b - 1)) if signed else 0
    largest = elements * (2 ** (b - signed) - 1)
    fits = [b for b in (bits - 1, bits) if _holds(smallest, largest, b, signed)]
    assert fits == [bits]


def _holds(smallest, largest, bits, signed):
    return smallest >= -(2 ** (bits - 1)) * signed and largest <= 2 ** (bits - signed) - 1


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_taps_of_a_transposed_convolution(kernel, stride, dilation):
    weight = torch.ones(2, 3, kernel)
    output = F.conv_transpose1d(torch.ones(1, 2, 30), weight, stride=stride, dilation=dilation)
    eight = torch.tensor(8.0)
    bits = module.max_acc_bit_width_convtransposeNd(
        eight, eight, weight.shape, stride, 0, 0, 1, dilation
    )
    assert bits == module.sum_bit_width((eight, eight), int(output.max()))


def test_every_layer_function_has_a_rule():
    eight = torch.tensor(8.0)
    shape = (6, 4, 3, 3)
    rule = module.FN_ACC_BITWIDTH_MAPPING[F.conv2d]
    assert rule(eight, eight, shape) == module.sum_bit_width((eight, eight), prod(shape[1:]))
    assert len(module.FN_ACC_BITWIDTH_MAPPING) == 8


def test_spread_and_argument():
    assert module.spread(2, 3) == (2, 2, 2) and module.spread((1, 2), 2) == (1, 2)
    assert module.argument((1, 2), {}, 1, "stride", 0) == 2
    assert module.argument((), {"stride": 3}, 1, "stride", 0) == 3
    assert module.argument((), {}, 1, "stride", 0) == 0


def _reaches(bits: int, signed: bool, binary: bool) -> list[int]:
    if binary:
        return [-1, 1]
    return [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1]


@given(st.integers(1, 12), st.booleans(), st.booleans(), st.integers(1, 5000), st.booleans())
def test_sums_with_one_signed_bit_fit(bits, signed, both_binary, terms, two_complement):
    """Each product is of a signed integer of one bit, -1 and 1 or -1 and 0, and another one."""
    bits, signed = (1, True) if both_binary else (bits, signed)
    one_bit = _reaches(1, True, binary=not two_complement)
    products = [x * w for x in _reaches(bits, signed, both_binary) for w in one_bit]
    widths = torch.tensor(float(bits)), torch.tensor(1.0)
    width = module.with_sign_bit(
        module.sum_bit_width(widths, terms), (widths[0], signed), (widths[1], True)
    ).item()
    assert -(2 ** (width - 1)) <= terms * min(products)
    assert terms * max(products) <= 2 ** (width - 1) - 1
    if not signed and not two_complement:
        assert terms * max(products) > 2 ** (width - 2) - 1  # one bit less is too few


def test_no_bit_for_the_sign_where_it_has_one():
    eight, one = torch.tensor(8.0), torch.tensor(1.0)
    for factors in ((), ((one, False),), ((eight, True), (one, False)), ((eight, True),)):
        assert module.with_sign_bit(eight, *factors) is eight


def test_bits_that_the_host_cannot_read():
    def widths(one: torch.Tensor) -> torch.Tensor:
        return module.with_sign_bit(torch.tensor(8.0), (torch.tensor(4.0), True), (one, True))

    batch = torch.tensor([1.0, 2.0])
    assert torch.vmap(widths)(batch).tolist() == [9.0, 8.0]
    compiled = torch.compile(widths, fullgraph=True, backend="aot_eager")
    assert [compiled(one).item() for one in batch] == [9.0, 8.0]
    torch._dynamo.reset()
