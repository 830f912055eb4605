"""The constructions give Hadamard matrices, with the signs that checkpoints were rotated with."""

from __future__ import annotations

import pytest
import torch

from brevitas.function._hadamard_factors import FACTORS
from brevitas.function.hadamard import hadamard_factor


@pytest.mark.parametrize("size", FACTORS)
def test_rows_are_orthogonal_signs(size):
    matrix = FACTORS[size](None)
    assert matrix.shape == (size, size) and bool((matrix.abs() == 1).all())
    assert torch.equal(matrix @ matrix.T, size * torch.eye(size))
    # The largest factor that fits is taken: 20 and 40 are both in the table.
    assert torch.equal(hadamard_factor(4 * size), FACTORS[40 if size == 20 else size](None))


def test_first_construction_of_paley():
    """1 on the diagonal; elsewhere 1 where row - column is a square modulo 11, else -1."""
    squares = {1, 3, 4, 5, 9}
    rows = [[1 if i == j or (i - j) % 11 in squares else -1 for j in range(11)] for i in range(11)]
    expected = [[1] + [-1] * 11, *([1, *row] for row in rows)]
    assert FACTORS[12](None).tolist() == expected


def test_second_construction_of_paley():
    """Symmetric, and `C @ C.T = 13 * I` for what is left of a block without its diagonal."""
    matrix = FACTORS[28](None)
    assert torch.equal(matrix, matrix.T)
    conference = matrix[:14, :14] - torch.eye(14)
    assert torch.equal(conference @ conference.T, 13 * torch.eye(14))
    assert conference[0].tolist() == [0.0] + [1.0] * 13


def test_array_of_williamson():
    """The squares of the four symmetric blocks add up to the size."""
    matrix = FACTORS[52](None)
    blocks = matrix[:13].split(13, dim=1)
    assert all(torch.equal(block, block.T) for block in blocks)
    assert torch.equal(sum(block @ block for block in blocks), 52 * torch.eye(13))


def test_doubled():
    assert torch.equal(
        FACTORS[40](None), torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), FACTORS[20](None))
    )
