"""Hadamard matrices have orthogonal rows of signs; the transform multiplies by them."""

from __future__ import annotations

import pytest
import torch

from brevitas.function._hadamard_factors import FACTORS
from brevitas.function.hadamard import (
    hadamard_factor,
    hadamard_matrix,
    hadamard_transform,
    is_power_of_two,
    next_hadamard_size,
)

POWERS = [1, 2, 4, 8, 32, 512]
PRODUCTS = [12, 40, 104, 156, 320]
SIZES = POWERS + PRODUCTS
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def dense(size):
    """The same matrix by its definition, `F (x) S` over the root of the size, in float64."""
    factor = hadamard_factor(size)
    factor = torch.ones(1, 1) if factor is None else factor
    sylvester = hadamard_matrix(size // factor.shape[0])
    return torch.kron(factor.double(), sylvester.double()) / size**0.5


def random(*shape, dtype=torch.float32):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return values.to(dtype)


@pytest.mark.parametrize("size", [1, 2, 3, 8, 20])
def test_sylvester_rows_are_orthogonal_signs(size):
    matrix = hadamard_matrix(size)
    rows = matrix.shape[0]
    assert rows >= size and rows < 2 * size
    assert torch.equal(matrix @ matrix.T, rows * torch.eye(rows))
    assert bool((matrix.abs() == 1).all())


def test_no_factor():
    assert all(hadamard_factor(size) is None for size in POWERS)
    for size in (0, 3, 44, 84):
        with pytest.raises(ValueError, match=rf"size={size}: .*Next larger size: "):
            hadamard_factor(size)


def test_next_sizes():
    """The sizes in order, none left out: against a search by trial."""
    found, size = [], 1
    while size < 700:
        size = next_hadamard_size(size)
        found.append(size)
    known = [
        size
        for size in range(2, found[-1] + 1)
        if any(size % k == 0 and is_power_of_two(size // k) for k in FACTORS)
    ]
    assert found == known
    assert [next_hadamard_size(size, steps=2) for size in (8, 12, 28)] == [20, 24, 40]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("transpose", [False, True])
def test_multiplies_by_the_matrix(size, transpose):
    x = random(2, 3, size)
    matrix = dense(size).T if transpose else dense(size)
    # Each of up to five products rounds sums of terms whose squares add up to that of the norm.
    tolerance = 8 * torch.finfo(x.dtype).eps * x.norm(dim=-1).max().item()
    expected = (x.double() @ matrix.T).float()
    torch.testing.assert_close(
        hadamard_transform(x, transpose=transpose), expected, atol=tolerance, rtol=0
    )


@pytest.mark.parametrize("size", [16, 24])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_keeps_dtype_and_norm(size, dtype):
    x = random(5, size, dtype=dtype)
    rotated = hadamard_transform(x)
    back = hadamard_transform(rotated, transpose=True)
    assert rotated.dtype == back.dtype == dtype
    # Half precision rounds each result once, by eps / 2 of itself; the norm of these errors is at
    # most that part of the norm. Wider types round in each of the products.
    eps = 8 * torch.finfo(dtype).eps
    norms = x.double().norm(dim=-1)
    assert bool(((rotated.double().norm(dim=-1) - norms).abs() <= eps * norms).all())
    assert bool(((back - x).double().norm(dim=-1) <= eps * norms).all())


def test_half_precision_rounds_once_and_does_not_overflow():
    x = torch.full((1, 1024), 1000.0, dtype=torch.float16)  # their sum is no float16
    assert hadamard_transform(x)[0, 0].item() == 32000.0
    x = random(4, 24, dtype=torch.bfloat16)
    assert torch.equal(hadamard_transform(x), hadamard_transform(x.float()).bfloat16())


def test_shapes_and_other_types():
    assert hadamard_transform(random(8)).shape == (8,)
    assert hadamard_transform(torch.empty(0, 24)).shape == (0, 24)
    columns = random(24, 12)
    assert torch.equal(hadamard_transform(columns.T), hadamard_transform(columns.T.contiguous()))
    integers = torch.arange(8)
    assert torch.equal(hadamard_transform(integers), hadamard_transform(integers.float()))
    x = random(3, 16)
    expected = torch.complex(hadamard_transform(x), hadamard_transform(-x))
    torch.testing.assert_close(hadamard_transform(torch.complex(x, -x)), expected)


def test_a_factor_of_ones_own():
    """Any orthogonal rows of one norm, here of 3; the result is orthonormal all the same."""
    orthogonal = torch.linalg.qr(random(3, 3, dtype=torch.float64))[0].contiguous()
    x = random(4, 12, dtype=torch.float64)
    expected = x @ torch.kron(orthogonal, hadamard_matrix(4).double() / 2).T
    torch.testing.assert_close(hadamard_transform(x, orthogonal), expected)
    torch.testing.assert_close(hadamard_transform(x, 5 * orthogonal), expected)
    torch.testing.assert_close(hadamard_transform(expected, orthogonal, transpose=True), x)
    with pytest.raises(ValueError, match=r"size 10, Hadamard factor of 3 rows: .* 3 \* 2\*\*m"):
        hadamard_transform(x[:, :10], orthogonal)


@pytest.mark.parametrize("size", [8, 12, 24])
def test_gradient_is_the_rotation_back(size):
    x = random(2, size, dtype=torch.float64).requires_grad_()
    gradient = random(2, size, dtype=torch.float64)
    hadamard_transform(x).backward(gradient)
    torch.testing.assert_close(x.grad, hadamard_transform(gradient, transpose=True))
    assert torch.autograd.gradcheck(hadamard_transform, (x,))


@pytest.mark.parametrize("size", [16, 24])
def test_autocast_changes_nothing(size):
    x = random(2, size)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rotated = hadamard_transform(x)
    assert torch.equal(rotated, hadamard_transform(x))


@pytest.mark.parametrize("size", [16, 52])
def test_compiles_in_one_graph(size):
    x = random(2, size)
    compiled = torch.compile(hadamard_transform, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), hadamard_transform(x))
    torch._dynamo.reset()
