"""Tests of the integers of an affine integer tensor: values, range, validity, messages."""

from __future__ import annotations

import doctest
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from brevitas.quant_tensor import IntQuantTensor
from brevitas.quant_tensor import _int_mixin as module
from quant_tensors import make


def test_doctests():
    assert doctest.testmod(module).failed == 0


@given(st.integers(1, 24), st.booleans(), st.integers(0, 100), st.floats(1e-6, 1e3))
def test_integers_are_exact(bit_width, signed, seed, scale):
    # Up to 2**23 the rounding of a float32 value is at most half a step.
    bit_width -= not signed and bit_width == 24
    scale_tensor = torch.tensor(scale, dtype=torch.float32)
    x, integers = make((20,), scale_tensor, 0.0, bit_width, signed, seed=seed)
    assert x.is_valid is True
    assert torch.equal(x.int().double(), integers)
    assert torch.equal(x.int(float_datatype=True), integers.float())
    bits = bit_width if signed or bit_width == 8 else bit_width + 1
    assert x.int().dtype.itemsize * 8 >= min(bits, 64)


def test_smallest_dtype():
    dtypes = {
        (8, True): torch.int8,
        (8, False): torch.uint8,
        (1, False): torch.uint8,
        (9, True): torch.int16,
        (15, False): torch.int16,
        (16, False): torch.int32,
        (32, True): torch.int32,
        (32, False): torch.int64,
    }
    assert {key: module.integer_dtype(*key) for key in dtypes} == dtypes


def test_half_precision_values_keep_their_integers():
    # float16 holds 11 significant bits: all 11-bit integers times a power of two are exact.
    x, integers = make((100,), 0.25, 0.0, 11)
    assert torch.equal(x.half().int().double(), integers)
    assert x.half().int(float_datatype=True).dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bit_width": 4.0}, r"integers are out of range: found .* accepted -8 to 7 \(signed"),
        ({"scale": 0.07}, r"values are no integer multiple of the scale \[0.07"),
    ],
)
def test_invalid_tensors_say_why(change, message):
    x, _ = make((50,), 0.05)
    y = x.set(**change)
    assert y.is_valid is False
    with pytest.raises(RuntimeError) as caught:
        y.int()
    headline, details = str(caught.value).splitlines()
    assert headline == "IntQuantTensor not valid."
    assert re.search(message + r".*\. Requantize the value", details)


def test_zero_points_of_tutorial():
    value = torch.arange(10, dtype=torch.float32)
    x = IntQuantTensor(value, scale=0.1, zero_point=1, bit_width=8, signed=False, training=False)
    assert x.int().tolist() == [1, 11, 21, 31, 41, 51, 61, 71, 81, 91]
    assert x.int().dtype == torch.uint8
    # Ten over a rounded tenth: a rounding of each operation away from the integers.
    torch.testing.assert_close(x._pre_round_int_value, 10 * value + 1)


def test_checks_in_eval_and_training():
    x, _ = make((4,), 0.1, 1.0)
    y, _ = make((4,), 0.2, 2.0, 4, signed=False)
    for check, message in (
        (x.check_scaling_factors_same, r"^Scaling factors are different\n0.1.* and 0.2"),
        (x.check_zero_points_same, r"^Zero points are different\n1.0 and 2.0"),
        (x.check_bit_width_same, r"^Bit widths are different\n8.0 and 4.0"),
        (x.check_sign_same, "^Signs are different"),
    ):
        with pytest.raises(RuntimeError, match=message):
            check(y)
    training = x.set(training=True)
    assert training.check_scaling_factors_same(y) is True
    assert training.check_zero_points_same(y) is True
    with pytest.raises(RuntimeError, match="Bit widths"):
        training.check_bit_width_same(y)


def signs(*integers: int, **changed: object) -> IntQuantTensor:
    """A signed tensor of one bit."""
    fields = {"scale": 0.25, "zero_point": 0.0, "bit_width": 1, "signed": True, "training": False}
    return IntQuantTensor(torch.tensor(integers) * 0.25, **{**fields, **changed})


@pytest.mark.parametrize("integers", [(-1, 1), (1, 1), (-1, -1), (-1, 0), (0, 0), ()])
def test_one_signed_bit_holds_two_values(integers):
    x = signs(*integers)
    assert x.is_valid is True
    assert x.int().tolist() == list(integers) and x.int().dtype is torch.int8


@pytest.mark.parametrize("integers", [(-1, 0, 1), (0, 1), (-2, 1), (3,)])
def test_one_signed_bit_holds_no_third_value(integers):
    x = signs(*integers)
    assert x.is_valid is False
    with pytest.raises(RuntimeError, match="accepted -1 to 0, or -1 and 1 alone"):
        x.int()


def test_other_widths_have_no_second_range():
    assert signs(-1, 1, bit_width=2).is_valid and not signs(-3, 3, bit_width=2).is_valid
    assert not signs(-1, 1, signed=False).is_valid
    with pytest.raises(RuntimeError, match=r"accepted -2 to 1 \(signed, bit width 2\)"):
        signs(-3, 1, bit_width=2).int()


def test_one_signed_bit_in_a_traced_graph():
    compiled = torch.compile(lambda x: x.int(), fullgraph=True, backend="aot_eager")
    assert compiled(signs(-1, 1)).tolist() == [-1, 1]
    assert compiled(signs(-1, 0)).tolist() == [-1, 0]
    with pytest.raises(RuntimeError, match="not valid"):
        compiled(signs(-1, 0, 1))
    torch._dynamo.reset()


@pytest.mark.parametrize("bits", [31, 32, 33, 48, 64])
def test_the_largest_integers_of_wide_formats_keep_their_sign(bits):
    """Half a unit of float32 above 2 ** (bits - 1) - 1 is no reason to wrap around."""
    value = torch.tensor([1.0, -1.0, 0.5])
    scale = torch.tensor(1.0) / (2.0 ** (bits - 1) - 1)
    x = IntQuantTensor(value, scale, 0.0, bits, signed=True, training=False)
    assert x.is_valid
    expected = value.double() * 2.0 ** (bits - 1)
    # Steps of float32 at the value, and the largest integer in the place of the next power.
    tolerance = 2.0 ** (bits - 1) * torch.finfo(torch.float32).eps + 1
    torch.testing.assert_close(x.int().double(), expected, rtol=0.0, atol=tolerance)
