"""The k-th element of each row against a sort."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from brevitas.core.stats._selection import masked_median, nth_largest_index, nth_smallest_index


def _check(x: torch.Tensor, rank: int) -> None:
    ordered = x.sort(dim=-1)[0]
    largest = x.gather(-1, nth_largest_index(x, rank))
    smallest = x.gather(-1, nth_smallest_index(x, rank))
    assert torch.equal(largest[:, 0].nan_to_num(9e9), ordered[:, -rank].nan_to_num(9e9))
    assert torch.equal(smallest[:, 0].nan_to_num(9e9), ordered[:, rank - 1].nan_to_num(9e9))


@pytest.mark.parametrize("length", [1, 2, 17, 4095, 4096, 4099, 20_000, 65_543])
@pytest.mark.parametrize("levels", [3, 40, 10**9])
def test_every_rank_with_and_without_ties(length: int, levels: int) -> None:
    x = torch.randint(levels, (3, length)).float() - levels // 2
    for rank in (1, 2, 3, 7, 20, 66, 200, length // 3, length // 2, length):
        if 1 <= rank <= length:
            _check(x, rank)


@settings(max_examples=30, deadline=None)
@given(
    length=st.integers(4096, 9000),
    rank=st.integers(1, 120),
    levels=st.integers(1, 5000),
    infinite=st.booleans(),
    nan_count=st.integers(0, 150),
    seed=st.integers(0, 2**31),
)
def test_random_rows(
    length: int, rank: int, levels: int, infinite: bool, nan_count: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(levels, (2, length), generator=generator).float()
    if infinite:
        x[:, ::5] = torch.inf
        x[:, 1::7] = -torch.inf
    x[0, torch.randperm(length, generator=generator)[:nan_count]] = torch.nan
    _check(x, rank)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types(dtype: torch.dtype) -> None:
    _check(torch.randn(2, 10_000).to(dtype), 12)


def test_rows_that_are_no_contiguous_memory() -> None:
    _check(torch.randn(5000, 3).t(), 5)


def test_masked_median() -> None:
    x, mask = torch.randn(7, 12), torch.rand(7, 12) > 0.5
    expected = torch.stack([row[kept].median() for row, kept in zip(x, mask, strict=True)])
    assert torch.equal(masked_median(x, mask, dim=1), expected)
    assert masked_median(x, mask, dim=1, keepdim=True).shape == (7, 1)
    assert torch.equal(masked_median(x, mask), x[mask].median())
    assert masked_median(x, torch.zeros_like(mask)).isnan()
