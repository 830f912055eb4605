"""Tests of group-wise integer tensors."""

from __future__ import annotations

import doctest

import pytest
import torch

from brevitas.quant_tensor import GroupwiseIntQuantTensor
from brevitas.quant_tensor import groupwise_int_quant_tensor as module
from quant_tensors import make_groups


def test_doctests():
    assert doctest.testmod(module, extraglobs={"torch": torch}).failed == 0


def test_integers_have_the_smallest_dtype():
    x, integers = make_groups(GroupwiseIntQuantTensor, (3, 10), 4, 1)
    assert x.int().dtype == torch.int8 and torch.equal(x.int().double(), integers)
    assert x.int(float_datatype=True).dtype == torch.float32
    assert not x.set(bit_width=7).is_valid
    unsigned = abs(x)
    assert unsigned.int().dtype == torch.uint8


def test_signs_and_bits():
    x, _ = make_groups(GroupwiseIntQuantTensor, (3, 10), 4, 1)
    assert (-x).bit_width == 8 and abs(x).bit_width == 7 and (-abs(x)).bit_width == 8


def test_bits_are_whole_numbers():
    x, _ = make_groups(GroupwiseIntQuantTensor, (3, 10), 4, 1)
    with pytest.raises(ValueError, match=r"GroupwiseIntQuantTensor\(bit_width=0\).*>= 1"):
        x.set(bit_width=0)


def test_zeros_of_a_rectifier_need_a_second_bit_of_a_binary_tensor():
    value = torch.tensor([[[1.0, -1.0], [2.0, 2.0]]])
    scale = torch.tensor([[[1.0], [2.0]]])
    x = GroupwiseIntQuantTensor(value, scale, 0.0, 2, 1, 1, True, False)
    assert x.is_valid
    y = torch.relu(x)
    assert y.bit_width == 2 and y.is_valid and y.int().tolist() == [[1, 0, 1, 1]]
