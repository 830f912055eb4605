"""Classifiers with a fixed Hadamard matrix."""

from __future__ import annotations

import copy

import pytest
import torch

import brevitas.nn as qnn
from brevitas.function.hadamard import hadamard_matrix
from quant_tensors import make

SIZES = [(8, 4), (5, 7), (3, 3), (1, 1)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_formula(sizes):
    layer = qnn.HadamardClassifier(*sizes)
    x = torch.randn(3, sizes[0], generator=torch.Generator().manual_seed(0))
    signs = hadamard_matrix(max(sizes))[: sizes[1], : sizes[0]]
    expected = -layer.scale * (x / x.norm()) @ signs.T
    torch.testing.assert_close(layer(x), expected)
    assert layer.scale.item() == pytest.approx(sizes[1] ** -0.5)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_quantized_output(sizes):
    layer = qnn.HadamardClassifier(*sizes, return_quant_tensor=True)
    x, _ = make((3, sizes[0]), 0.25, bit_width=8)
    y = layer(x)
    assert y.is_valid and y.bit_width == layer.max_output_bit_width(x.bit_width)
    assert bool((y.scale > 0).all())
    layer.return_quant_tensor = False
    assert torch.equal(layer(x), y.value)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("zero_point", [0.0, 3.0])
def test_worst_case_fits_the_bits(sizes, signed, zero_point):
    """Each row of signs met by the extreme integers that add up, in narrow range if signed."""
    layer = qnn.HadamardClassifier(*sizes, return_quant_tensor=True)
    low, high = (-7.0, 7.0) if signed else (0.0, 15.0)
    template, _ = make((1, sizes[0]), 0.5, zero_point=zero_point, bit_width=4, signed=signed)
    for row in hadamard_matrix(max(sizes))[: sizes[1], : sizes[0]]:
        for sign in (row, -row):
            integers = torch.where(sign > 0, high, low)
            y = layer(template.set(value=((integers - zero_point) * 0.5).unsqueeze(0)))
            assert y.is_valid


def test_learned_and_fixed_scale():
    learned, fixed = qnn.HadamardClassifier(8, 4), qnn.HadamardClassifier(8, 4, fixed_scale=True)
    assert list(learned.state_dict()) == list(fixed.state_dict()) == ["scale"]
    assert list(dict(learned.named_parameters())) == ["scale"] and not list(fixed.parameters())
    learned(torch.randn(3, 8)).sum().backward()
    assert learned.scale.grad is not None


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="out_channels=0: expected an int >= 1"):
        qnn.HadamardClassifier(8, 0)


def test_the_matrix_comes_back_from_the_meta_device():
    layer, x = qnn.HadamardClassifier(5, 7), torch.randn(2, 5)
    empty = copy.deepcopy(layer).to("meta").to_empty(device="cpu")
    empty.load_state_dict(layer.state_dict())
    assert torch.equal(empty(x), layer(x)) and not empty.proj.requires_grad
