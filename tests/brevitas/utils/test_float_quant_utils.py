"""Tests of numbers of small floating-point formats, against those of PyTorch."""

from __future__ import annotations

import doctest
import math

import pytest
import torch

from brevitas.utils import float_quant_utils as module
from brevitas.utils.float_quant_utils import (
    get_max_available_float,
    get_midmax_mantissa_bit_bias,
    get_min_available_float,
    get_minifloat_value,
    mantissa_bits_to_float,
)
from quant_tensors import FORMATS, numbers_of


def test_doctests():
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("name", FORMATS)
def test_ends_of_a_format(name):
    exponent_bits, mantissa_bits, bias, inf_values, nan_values = FORMATS[name]
    numbers = numbers_of(name)
    for saturating in (True, False)[: 1 + bool(nan_values)]:
        largest = get_max_available_float(
            exponent_bits, mantissa_bits, bias, nan_values, inf_values, saturating
        )
        assert largest == float(numbers[-1])
    assert get_min_available_float(exponent_bits, mantissa_bits, bias) == float(numbers[1])
    # Half of the largest step beyond the largest number, in units of its power of two.
    bias = get_midmax_mantissa_bit_bias(mantissa_bits, nan_values, inf_values)
    significand = float(numbers[-1]) / 2.0 ** math.floor(math.log2(float(numbers[-1])))
    assert 2.0**bias == (2 - significand) * 2**mantissa_bits


def test_the_formats_of_torch():
    for dtype, format in (
        (torch.float8_e4m3fn, (4, 3, 7, ("111",), None)),
        (torch.float8_e5m2, (5, 2, 15, ("01", "10", "11"), ("00",))),
        (torch.float8_e4m3fnuz, (4, 3, 8, None, None)),
        (torch.float8_e5m2fnuz, (5, 2, 16, None, None)),
        (torch.float16, (5, 10, 15, tuple(f"{i:010b}" for i in range(1, 1024)), ("0" * 10,))),
    ):
        assert get_max_available_float(*format, True) == torch.finfo(dtype).max
        assert get_min_available_float(*format[:3]) == torch.finfo(dtype).smallest_normal / (
            2 ** format[1]
        )


def test_tensors_of_integers_are_numbers():
    bits = [torch.tensor(n) for n in (4, 3, 7)]
    assert get_max_available_float(*bits, ("111",), None, True) == 448.0
    assert get_min_available_float(*[bit.float() for bit in bits]) == 2.0**-9


def test_formats_without_exponent_or_mantissa_bits():
    assert get_max_available_float(0, 3, 0, None, None, True) == 1.75
    assert get_max_available_float(4, 0, 7, None, None, True) == 256.0
    assert get_max_available_float(4, 0, 7, ("",), None, True) == 128.0
    assert get_minifloat_value("", "111", 0) == 1.75
    assert get_midmax_mantissa_bit_bias(0, None, None) == 0


def test_every_code_of_a_format():
    found = [get_minifloat_value(f"{i >> 3:04b}", f"{i & 7:03b}", 7) for i in range(127)]
    assert found == numbers_of("e4m3").tolist()


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (("101",), 1.625),
        (("101", True), 0.8125),
        (("101", False, False), 0.625),
        (("101", True, False), 0.3125),
        (("",), 1.0),
        (("", False, False), 0.0),
    ],
)
def test_mantissas(arguments, value):
    assert mantissa_bits_to_float(*arguments) == value


def test_codes_that_make_no_format():
    with pytest.raises(RuntimeError, match="inf value cannot exist without NaN value"):
        get_max_available_float(4, 3, 7, None, ("111",), True)
    with pytest.raises(ValueError, match="cannot be non-saturating without NaN/inf values"):
        get_max_available_float(4, 3, 7, None, None, False)
    for code in ("11", "1111", "12a"):
        with pytest.raises(ValueError, match=f"Mantissa code '{code}': expected 3 characters"):
            get_max_available_float(4, 3, 7, (code,), None, True)


def test_codes_above_a_reserved_one_are_no_numbers():
    assert get_max_available_float(3, 2, 3, ("01",), None, True) == 16.0
    assert get_max_available_float(3, 2, 3, ("10", "11"), None, True) == 20.0
    assert get_max_available_float(3, 2, 3, ("00",), None, True) == 14.0
