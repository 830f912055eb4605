"""Finds the k-th largest or smallest element of each row, exactly and fast near the ends.

Layer: core (L3).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["masked_median", "nth_largest_index", "nth_smallest_index"]

# Below this length, and where the candidates are no small part of a row, one search is as fast.
_MIN_TWO_LEVEL_LENGTH = 4096
_MAX_CANDIDATE_PART = 4


def _block_length(length: int, rank: int) -> int:
    """Power of two near the root of `length / rank`: balances block maxima and candidates."""
    return 1 << max(1, round(math.log2(length / rank) / 2))


def _top_index(x: Tensor, rank: int) -> Tensor:
    """Index of the `rank`-th largest element of each row, by the cheaper of two searches."""
    length = x.shape[-1]
    if 16 * rank <= length:
        return x.topk(rank, dim=-1)[1][..., -1:]
    return x.kthvalue(length - rank + 1, dim=-1, keepdim=True)[1]


def nth_largest_index(x: Tensor, rank: int) -> Tensor:
    """Index of the `rank`-th largest element of each row; NaN counts as largest.

    Near the maximum it is found in two levels. Blocks are ordered by their maxima; every element
    above the one searched for lies in one of the first `rank` blocks, and those hold at least
    `rank` elements that are not below it. So the search goes on in these blocks only.

    Args:
        x: Tensor `[rows, length]`.
        rank: 1 for the maximum, `length` for the minimum.

    Returns:
        Integers of shape `[rows, 1]`.

    Example:
        >>> nth_largest_index(torch.tensor([[5., 7., 6.]]), 2)
        tensor([[2]])
    """
    rows, length = x.shape
    if length < _MIN_TWO_LEVEL_LENGTH:
        # Quantized values are often equal. Which of them is found tells where gradients go, here
        # to the one that PyTorch's own search finds.
        return x.kthvalue(length, dim=-1, keepdim=True)[1] if rank == 1 else _top_index(x, rank)
    if rank == 1:
        return x.argmax(-1, keepdim=True)
    size = _block_length(length, rank)
    count = length // size
    if rank > count or _MAX_CANDIDATE_PART * rank * size > length:
        return _top_index(x, rank)
    blocks = x[:, : count * size].reshape(rows, count, size)
    chosen = blocks.amax(-1).topk(rank, dim=-1)[1]
    offsets = torch.arange(size, device=x.device)
    index = (chosen.unsqueeze(-1) * size + offsets).reshape(rows, rank * size)
    if count * size < length:
        tail = torch.arange(count * size, length, device=x.device).expand(rows, -1)
        index = torch.cat([index, tail], dim=-1)
    return index.gather(-1, _top_index(x.gather(-1, index), rank))


def nth_smallest_index(x: Tensor, rank: int) -> Tensor:
    """Index of the `rank`-th smallest element of each row; NaN counts as largest.

    Args:
        x: Tensor `[rows, length]`.
        rank: 1 for the minimum, `length` for the maximum.

    Returns:
        Integers of shape `[rows, 1]`.

    Example:
        >>> nth_smallest_index(torch.tensor([[5., 7., 6.]]), 2)
        tensor([[2]])
    """
    length = x.shape[-1]
    if length < _MIN_TWO_LEVEL_LENGTH or 16 * rank > length:
        return x.kthvalue(rank, dim=-1, keepdim=True)[1]
    return nth_largest_index(torch.where(torch.isnan(x), -math.inf, -x), rank)


def masked_median(x: Tensor, mask: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Median of the elements under a mask; the lower of two middle ones, NaN where there is none.

    Args:
        x: Any floating-point tensor.
        mask: Booleans of the shape of `x`, true for elements that count.
        dim: Dimension to reduce, or None for all of them.
        keepdim: Keep the reduced dimension with size one.

    Returns:
        0-d tensor, or `x` without `dim`.

    Example:
        >>> masked_median(torch.tensor([1., 5., 3.]), torch.tensor([True, False, True]))
        tensor(1.)
    """
    kept = torch.where(mask, x, math.nan)
    if dim is None:
        return torch.nanmedian(kept)
    return torch.nanmedian(kept, dim=dim, keepdim=keepdim)[0]
