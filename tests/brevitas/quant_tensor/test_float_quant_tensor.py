"""Tests of minifloat tensors: construction and text."""

from __future__ import annotations

import doctest

import pytest
import torch

from brevitas.quant_tensor import FloatQuantTensor
from brevitas.quant_tensor import float_quant_tensor as module
from quant_tensors import make_float


def test_doctests():
    assert doctest.testmod(module, extraglobs={"torch": torch}).failed == 0


def test_python_numbers_become_float32_scalars():
    x = FloatQuantTensor(torch.ones(2), 0.5, 0, 4, 3, 7, True, None, ["111"], True, False)
    for name in FloatQuantTensor._tensor_fields[1:]:
        assert getattr(x, name).dtype == torch.float32 and getattr(x, name).shape == ()
    assert x.nan_values == ("111",) and x.inf_values is None


def test_arguments_by_name():
    x, _ = make_float((3,), name="e5m2", training=True)
    y = FloatQuantTensor(**x._constructor_arguments())
    assert torch.equal(y.value, x.value) and y.inf_values == ("00",) and y.training


def test_text():
    x, _ = make_float((1,), 0.5)
    assert str(x) == (
        f"FloatQuantTensor(value={x.value}, scale=0.5, zero_point=0.0, exponent_bit_width=4.0, "
        "mantissa_bit_width=3.0, exponent_bias=7.0, saturating_t=True, inf_values=None, "
        "nan_values=('111',), signed_t=True, training_t=False)"
    )


@pytest.mark.parametrize("name", ["exponent_bit_width", "mantissa_bit_width"])
@pytest.mark.parametrize("number", [-1, 2.5])
def test_bits_are_whole_numbers(name, number):
    x, _ = make_float((1,))
    with pytest.raises(ValueError, match=f"{name}={number}.*expected a whole number >= 0"):
        x.set(**{name: number})


def test_a_mantissa_without_bits():
    x, _ = make_float((1,))
    y = x.set(mantissa_bit_width=0, nan_values=None, value=torch.tensor([0.5, 4.0]), scale=1.0)
    assert y.is_valid and not y.set(value=torch.tensor([3.0])).is_valid


def test_concatenation():
    x, _ = make_float((2, 3))
    y = FloatQuantTensor.cat([x, x], 1)
    assert type(y) is FloatQuantTensor and torch.equal(y.value, torch.cat([x.value, x.value], 1))
