"""Hadamard matrices whose size is no power of two, from the constructions of the literature.

Layer: function (L1).

A Hadamard matrix of size k holds 1 and -1, and its rows are orthogonal: `H @ H.T = k * I`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["FACTORS"]

# First rows of the four symmetric circulant blocks of Williamson's array.
_WILLIAMSON_ROWS = {
    13: (
        "+-+--++++--+-",
        "+---++++++---",
        "++-+--++--+-+",
        "+----+--+----",
    ),
    39: (
        "+++--+-+-----+--++----++--+-----+-+--++",
        "++++---+--++----+-+--+-+----++--+---+++",
        "+++--++-+---+-+--+----+--+-+---+-++--++",
        "+---++-+-+-----+++-++-+++-----+-+-++---",
    ),
    43: (
        "+---++--++++-+-+++-++--++-+++-+-++++--++---",
        "++-++++++----+-+--++-++-++--+-+----++++++-+",
        "+++-+-++--+-+-++++-+----+-++++-+-+--++-+-++",
        "++---++++-+--+--++--------++--+--+-++++---+",
    ),
}


def _quadratic_character(prime: int, device: torch.device | None) -> Tensor:
    """`Q[i, j]`: 0 where `i = j`, 1 where `i - j` is a square modulo a prime, else -1."""
    index = torch.arange(prime, device=device)
    character = torch.full((prime,), -1.0, device=device).index_fill(0, index**2 % prime, 1.0)
    character = character.index_fill(0, index[:1], 0.0)
    return character[(index[:, None] - index) % prime]


def _bordered(block: Tensor, row: float, column: float) -> Tensor:
    """A block below a row and right of a column of constants, with a corner of zero."""
    size = block.shape[0]
    top = torch.cat([block.new_zeros(1, 1), block.new_full((1, size), row)], dim=1)
    return torch.cat([top, torch.cat([block.new_full((size, 1), column), block], dim=1)])


def _paley_first(prime: int) -> Callable[[torch.device | None], Tensor]:
    """Paley's first construction, of size `prime + 1`, for primes that are 3 modulo 4."""

    def build(device: torch.device | None) -> Tensor:
        conference = _bordered(_quadratic_character(prime, device), row=-1.0, column=1.0)
        return conference + torch.eye(prime + 1, device=device)

    return build


def _paley_second(prime: int) -> Callable[[torch.device | None], Tensor]:
    """Paley's second construction, of size `2 * (prime + 1)`, for primes that are 1 modulo 4."""

    def build(device: torch.device | None) -> Tensor:
        conference = _bordered(_quadratic_character(prime, device), row=1.0, column=1.0)
        identity = torch.eye(prime + 1, device=device)
        plus, minus = conference + identity, conference - identity
        return torch.cat([torch.cat([plus, minus], dim=1), torch.cat([minus, -plus], dim=1)])

    return build


def _williamson(size: int) -> Callable[[torch.device | None], Tensor]:
    """Williamson's array of four symmetric circulant blocks, of size `4 * size`."""
    signs = [[1.0 if sign == "+" else -1.0 for sign in row] for row in _WILLIAMSON_ROWS[size]]

    def build(device: torch.device | None) -> Tensor:
        index = torch.arange(size, device=device)
        circulant = (index - index[:, None]) % size
        a, b, c, d = (torch.tensor(row, device=device)[circulant] for row in signs)
        array = ((a, b, c, d), (-b, a, -d, c), (-c, d, a, -b), (-d, -c, b, a))
        return torch.cat([torch.cat(row, dim=1) for row in array])

    return build


def _doubled(build: Callable[[torch.device | None], Tensor]) -> Callable[..., Tensor]:
    """Sylvester's doubling, `[[H, H], [H, -H]]`."""

    def build_doubled(device: torch.device | None) -> Tensor:
        half = build(device)
        return torch.cat([half.repeat(1, 2), torch.cat([half, -half], dim=1)])

    return build_doubled


# One row a size. Numbers of rows and signs are those that rotated checkpoints were made with.
FACTORS: dict[int, Callable[[torch.device | None], Tensor]] = {
    12: _paley_first(11),
    20: _paley_first(19),
    28: _paley_second(13),
    36: _paley_second(17),
    40: _doubled(_paley_first(19)),
    52: _williamson(13),
    60: _paley_first(59),
    108: _paley_first(107),
    140: _paley_first(139),
    152: _paley_first(151),
    156: _williamson(39),
    172: _williamson(43),
}
