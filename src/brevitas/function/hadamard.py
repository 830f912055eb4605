"""Rotating the last dimension of a tensor by a Hadamard matrix, in a few small products.

Layer: function (L1).

For `n = k * 2**m` the matrix is `F (x) S`, the Kronecker product of a Hadamard matrix F of size k
and of Sylvester's of size `2**m`, which is itself a product of small ones.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from torch import Tensor

from brevitas.function._hadamard_factors import FACTORS
from brevitas.utils.torch_utils import widened

__all__ = [
    "hadamard_factor",
    "hadamard_matrix",
    "hadamard_transform",
    "is_power_of_two",
    "next_hadamard_size",
]

# Sylvester's matrix is applied in pieces of at most 2**4 rows, the fastest of 2**3 to 2**6.
_LARGEST_PIECE = 4


def is_power_of_two(size: int) -> bool:
    """True for 1, 2, 4, 8, ...

    Example:
        >>> [size for size in range(10) if is_power_of_two(size)]
        [1, 2, 4, 8]
    """
    return size > 0 and size & (size - 1) == 0


def hadamard_matrix(
    size: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """The Hadamard matrix of the smallest power of two that is at least ``size``.

    ``H(1) = [[1]]`` and ``H(2 n) = [[H(n), H(n)], [H(n), -H(n)]]``.

    Args:
        size: smallest number of rows.
        device: device of the result.
        dtype: dtype of the result.

    Example:
        >>> hadamard_matrix(2)
        tensor([[ 1.,  1.],
                [ 1., -1.]])

    Reference: Sylvester, "Thoughts on inverse orthogonal matrices", 1867.
    """
    matrix = torch.ones(1, 1, device=device, dtype=dtype)
    while matrix.shape[0] < size:
        matrix = torch.cat([matrix.repeat(1, 2), torch.cat([matrix, -matrix], dim=1)])
    return matrix


def _factor_size(size: int) -> int | None:
    """The largest size of the table that is `size` over a power of two; 1 for powers of two."""
    if is_power_of_two(size):
        return 1
    found = [k for k in FACTORS if size % k == 0 and is_power_of_two(size // k)]
    return max(found, default=None)


def hadamard_factor(size: int, device: torch.device | None = None) -> Tensor | None:
    """The factor F of the Hadamard matrix of a size, where the size is no power of two.

    Args:
        size: `k * 2**m`, with k among 12, 20, 28, 36, 40, 52, 60, 108, 140, 152, 156, 172 or 1.
        device: device of the result.

    Returns:
        Float tensor of 1 and -1, `[k, k]` with the largest k that fits; None where k is 1.

    Raises:
        ValueError: for another size.

    Example:
        >>> hadamard_factor(24).shape, hadamard_factor(16)
        (torch.Size([12, 12]), None)

    Reference:
        Paley, "On orthogonal matrices", 1933; Williamson, "Hadamard's determinant theorem and the
        sum of four squares", 1944; Hedayat and Wallis, "Hadamard matrices and their
        applications", 1978.
    """
    k = _factor_size(size)
    if k is None:
        raise ValueError(
            f"size={size!r}: no Hadamard matrix of this size is known here. Expected k * 2**m with "
            f"k in {[1, *FACTORS]}. Next larger size: {next_hadamard_size(max(size, 1))}."
        )
    return None if k == 1 else FACTORS[k](device)


def next_hadamard_size(size: int, steps: int = 1) -> int:
    """The size with a factor that follows on a size, `steps` of them away.

    Powers of two do not count: a dimension grows by a few elements, not up to twice.

    Args:
        size: where to start, an int >= 1; it does not count itself.
        steps: how many sizes to go.

    Example:
        >>> next_hadamard_size(5), next_hadamard_size(12), next_hadamard_size(12, steps=2)
        (12, 20, 24)
    """
    for _ in range(steps):
        # For each k, the smallest k * 2**m above the size.
        size = min(k << (size // k).bit_length() for k in FACTORS)
    return size


def _pieces(size: int) -> list[int]:
    """Split a power of two in nearly equal powers of two of at most `2**_LARGEST_PIECE`."""
    exponent = size.bit_length() - 1
    count = max(1, -(-exponent // _LARGEST_PIECE))
    return [1 << ((exponent + place) // count) for place in range(count)]


def _kronecker_product(x: Tensor, matrices: list[Tensor]) -> Tensor:
    """Multiply the last dimension by the Kronecker product of square matrices."""
    shape, inner = x.shape, 1
    for matrix in reversed(matrices):
        rows = matrix.shape[0]
        # Counted rather than -1, which is ambiguous for empty tensors. Three dimensions, since a
        # product with more of them copies its operands.
        outer = x.numel() // (rows * inner)
        if inner == 1:
            x = x.reshape(outer, rows) @ matrix.T
        else:
            x = matrix @ x.reshape(outer, rows, inner)
        inner *= rows
    return x.reshape(shape)


def hadamard_transform(x: Tensor, factor: Tensor | None = None, transpose: bool = False) -> Tensor:
    """Rotate the last dimension by the normalized Hadamard matrix of its size.

    `y = H x` with `H = (F (x) S) / sqrt(n)`, S Sylvester's matrix of `n / k` rows. H is
    orthonormal, `H @ H.T = I`, so that norms are kept. Takes `O(n log n)` operations for each
    vector; half-precision values are computed in float32 and rounded once, also under autocast.

    Args:
        x: Values, `[..., n]`; integers are taken as floats.
        factor: F, `[k, k]` with orthogonal rows of one norm, `n = k * 2**m`. None: that of
            `hadamard_factor(n)`.
        transpose: Rotate back, by `H.T`.

    Returns:
        Tensor of the shape and dtype of x.

    Raises:
        ValueError: n is not `k * 2**m`, or there is no known factor for it.

    Example:
        >>> hadamard_transform(torch.tensor([1.0, 1.0, 1.0, 1.0]))
        tensor([2., 0., 0., 0.])

    Reference:
        Fino and Algazi, "Unified matrix treatment of the fast Walsh-Hadamard transform", 1976.
    """
    size = x.shape[-1]
    if factor is None:
        factor = hadamard_factor(size, x.device)
    elif size % factor.shape[0] or not is_power_of_two(size // factor.shape[0]):
        raise ValueError(
            f"last dimension of size {size}, Hadamard factor of {factor.shape[0]} rows: expected a "
            f"size of {factor.shape[0]} * 2**m."
        )
    is_number = x.is_floating_point() or x.is_complex()
    values = widened(x) if is_number else x.to(torch.get_default_dtype())
    with _full_precision(x.device.type):
        rotated = _rotate(values, factor, transpose)
    return rotated.to(x.dtype) if is_number else rotated


def _rotate(x: Tensor, factor: Tensor | None, transpose: bool) -> Tensor:
    size = x.shape[-1]
    if factor is None:
        pieces = _sylvester(size, x)
        return _kronecker_product(x, [pieces[0] / math.sqrt(size), *pieces[1:]])
    factor = factor.to(x.device, x.dtype)
    columns = size // factor.shape[0]
    # The square of the norm of a row: k where the factor holds 1 and -1.
    factor = factor * (factor[0].square().sum() * columns).rsqrt()
    oriented = factor.T if transpose else factor  # Sylvester's matrix is symmetric
    return _kronecker_product(x, [oriented, *_sylvester(columns, x)])


def _sylvester(size: int, x: Tensor) -> list[Tensor]:
    """Sylvester's matrix of a power of two, as the factors of a Kronecker product."""
    pieces = _pieces(size)
    # The leading rows and columns of a matrix of Sylvester's are the smaller one.
    largest = hadamard_matrix(max(pieces), x.device, x.dtype)
    return [largest[:rows, :rows] for rows in pieces]


def _full_precision(device_type: str) -> torch.autocast | nullcontext[None]:
    """Switch autocast off where it is on: it would round the operands of a product."""
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()
