"""Tests of arithmetic against integer arithmetic on the same operands."""

from __future__ import annotations

import operator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from brevitas.quant_tensor import IntQuantTensor
from quant_tensors import make

seeds, bits, flags = st.integers(0, 1000), st.integers(2, 8), st.booleans()
zero_points = st.integers(-20, 20).map(float)


@given(seeds, bits, bits, zero_points, zero_points, flags)
def test_sum_holds_the_sum_of_the_integers(seed, b1, b2, z1, z2, signed):
    x, i = make((30,), 0.05, z1, b1, signed, seed=seed)
    y, j = make((30,), 0.05, z2, b2, signed, seed=seed + 1)
    total = x + y
    assert total.is_valid and total.bit_width == max(b1, b2) + 1
    assert torch.equal(total.int().double(), i + j)
    assert total.zero_point == z1 + z2
    assert torch.equal(torch.add(x, y).value, total.value)


@given(seeds, bits, bits, flags, flags)
def test_product_holds_the_product_of_the_integers(seed, b1, b2, s1, s2):
    x, i = make((30,), 0.05, 0.0, b1, s1, seed=seed)
    y, j = make((30,), 0.2, 0.0, b2, s2, seed=seed + 1)
    product = x * y
    assert product.is_valid and product.bit_width == b1 + b2
    assert torch.equal(product.int().double(), i * j)
    assert type(torch.mul(x, y)) is IntQuantTensor


@given(seeds, bits, flags, zero_points)
def test_float_operand_moves_the_zero_point(seed, b1, signed, zero_point):
    x, i = make((30,), 0.05, zero_point, b1, signed, seed=seed)
    offset = torch.randn(30, generator=torch.Generator().manual_seed(seed))
    for result in (x + offset, offset + x, x - (-offset), torch.add(offset, x)):
        assert type(result) is IntQuantTensor and result.bit_width == b1
        torch.testing.assert_close(result.value, x.value + offset)
        assert torch.equal(result.int().double(), i)
    flipped = 2.0 - x
    torch.testing.assert_close(flipped.value, 2.0 - x.value)


@given(seeds, flags, zero_points)
def test_negative_and_difference(seed, signed, zero_point):
    x, i = make((30,), 0.05, zero_point, 6, signed, seed=seed, narrow=True)
    assert torch.equal((-x).value, -x.value)
    assert torch.equal((-x).int().double(), -i)
    y, j = make((30,), 0.05, zero_point, 6, signed, seed=seed + 1, narrow=True)
    difference = x - y
    assert torch.equal(difference.int().double(), i - j)
    assert difference.zero_point == 0


@given(seeds, bits, bits, flags, st.integers(1, 40))
def test_matrix_product_holds_the_sums_of_products(seed, b1, b2, signed, inner):
    x, i = make((3, inner), 0.05, 0.0, b1, signed, seed=seed)
    y, j = make((inner, 4), 0.2, 0.0, b2, True, seed=seed + 1, narrow=True)
    for product in (x @ y, torch.matmul(x, y)):
        assert type(product) is IntQuantTensor and product.is_valid
        assert torch.equal(product.int().double(), i @ j)


def test_matrix_product_with_zero_points():
    x, i = make((2, 3, 5), 0.05, 2.5, 8, False)
    y, j = make((2, 5, 4), 0.2, 3.0, 6, False, seed=1)
    product = x @ y
    assert product.is_valid and product.signed
    assert torch.equal(product.int().double(), i @ (j - 3))


def test_matrix_product_with_scales_along_the_sum_is_plain():
    x, _ = make((3, 5), torch.rand(1, 5) + 0.1)
    y, _ = make((5, 4), 0.1)
    assert type(x @ y) is torch.Tensor
    assert type(y.transpose(0, 1) @ x.transpose(0, 1)) is torch.Tensor


@pytest.mark.parametrize("operation", [operator.mul, operator.truediv])
def test_products_and_quotients_refuse_zero_points(operation):
    x, _ = make((4,), 0.1, 1.0)
    with pytest.raises(RuntimeError, match="Zero-points of .* operands are non-zero"):
        operation(x, x)


def test_different_scales():
    x, _ = make((4,), 0.1)
    y, _ = make((4,), 0.2, training=True, seed=1)
    with pytest.raises(RuntimeError, match=r"^Scaling factors are different\n0.1.* and 0.2"):
        x + y.set(training=False)
    average = x + y
    # The mean of two float32 scales.
    torch.testing.assert_close(average.scale, torch.tensor(0.15))
    assert average.training


def test_options_of_torch_functions_give_plain_tensors():
    x, _ = make((4,), 0.1)
    assert type(torch.add(x, x, alpha=2)) is torch.Tensor
    assert type(torch.div(x, x + 100.0, rounding_mode="floor")) is torch.Tensor


def make_signs(shape, seed=0, scale=0.05):
    """A binary tensor, -1 and 1 in one bit, and its integers in float64."""
    generator = torch.Generator().manual_seed(seed)
    integers = 2.0 * torch.randint(0, 2, shape, generator=generator).double() - 1
    return IntQuantTensor((integers * scale).float(), scale, 0.0, 1, True, False), integers


@given(seeds, bits, flags)
def test_binary_operands(seed, b, signed):
    x, i = make_signs((3, 30), seed)
    y, j = make_signs((3, 30), seed + 1)
    z, k = make((3, 30), 0.05, 0.0, b, signed, seed=seed, narrow=signed)
    results = {
        "sum": (x + y, i + j),
        "difference": (x - y, i - j),
        "negative": (-x, -i),
        "product": (x * y, i * j),
        "product with an integer": (x * z, i * k),
        "sum with an integer": (x + z, i + k),
        "absolute": (abs(x), i.abs()),
        "matrix product": (x @ y.transpose(0, 1), i @ j.T),
        "matrix product with an integer": (z @ y.transpose(0, 1), k @ j.T),
        "concatenation": (torch.cat([x, y]), torch.cat([i, j])),
    }
    # The bits of a signed and an unsigned integer leave out their largest sums, at any width.
    if not signed and k.max() == 2**b - 1:
        del results["sum with an integer"]
    for name, (result, integers) in results.items():
        assert type(result) is IntQuantTensor and result.is_valid, name
        assert torch.equal(result.int().double(), integers), name


def test_binary_worst_cases():
    for inner in range(1, 20):
        x = IntQuantTensor(torch.ones(1, inner), 1.0, 0.0, 1, True, False)
        for rows in (x, -x):
            assert (rows @ x.transpose(0, 1)).is_valid
    ones = IntQuantTensor(torch.ones(1, 1), 1.0, 0.0, 1, True, False)
    assert (ones + ones).is_valid and (ones + ones).bit_width == 3
    assert abs(ones).bit_width == 1 and not abs(ones).signed
