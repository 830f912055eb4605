"""Tests of group-wise minifloat tensors."""

from __future__ import annotations

import doctest

import pytest
import torch

from brevitas.quant_tensor import GroupwiseFloatQuantTensor
from brevitas.quant_tensor import groupwise_float_quant_tensor as module
from quant_tensors import make_groups


def test_doctests():
    assert doctest.testmod(module, extraglobs={"torch": torch}).failed == 0


def test_minifloats():
    x, numbers = make_groups(GroupwiseFloatQuantTensor, (4, 10, 3, 3), 4, 1)
    assert x.is_valid and torch.equal(x.minifloat().double(), numbers)
    assert x.set(value_=x.value_ * 3).is_valid is False


def test_arguments_by_name():
    x, _ = make_groups(GroupwiseFloatQuantTensor, (2, 6), 4, 1)
    names = x._constructor_arguments()
    renamed = {name.removesuffix("_"): field for name, field in names.items()}
    y = GroupwiseFloatQuantTensor(**renamed)
    assert torch.equal(y.value, x.value) and y.nan_values == ("111",)


def test_bits_are_whole_numbers():
    x, _ = make_groups(GroupwiseFloatQuantTensor, (2, 6), 4, 1)
    with pytest.raises(ValueError, match=r"mantissa_bit_width=2.5\).*>= 0"):
        x.set(mantissa_bit_width=2.5)
