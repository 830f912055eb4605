"""Masks of attention, as one tensor that is added to the scores. Layer: nn (L6).

An entry is 0 where a query may attend to a key, minus infinity where it may not, and in between
where a model prefers some keys to others.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "additive_mask",
    "causal_mask",
    "check_mask_dtype",
    "extend_mask",
    "join_masks",
    "open_empty_rows",
    "split_blocking",
]

_BLOCKED = -float("inf")


def additive_mask(mask: Tensor, dtype: torch.dtype, blocks: bool) -> Tensor:
    """Return a mask as a tensor to add to the scores.

    Args:
        mask: boolean mask, or one to add already.
        dtype: dtype of the scores.
        blocks: what an entry of a boolean mask is where a query may not attend to a key.

    Example:
        >>> additive_mask(torch.tensor([True, False]), torch.float32, blocks=True)
        tensor([-inf, 0.])
    """
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    blocked = mask if blocks else ~mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill(blocked, _BLOCKED)


def check_mask_dtype(name: str, mask: Tensor, blocks: bool, layer: str) -> None:
    """Raise TypeError on a mask that is neither boolean nor floating-point.

    Args:
        name: the argument that the mask was given as.
        mask: the mask.
        blocks: what an entry of a boolean mask is where a query may not attend to a key.
        layer: how the message names the layer.
    """
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise TypeError(
            f"{name} of dtype {mask.dtype}: expected torch.bool ({blocks} where a key is left "
            f"out) or a floating-point dtype (added to the scores). Layer: {layer}"
        )


def causal_mask(queries: int, keys: int, like: Tensor) -> Tensor:
    """Return the mask by which query ``i`` attends to the keys ``0 .. i`` only.

    Args:
        queries: number of queries.
        keys: number of keys.
        like: tensor whose dtype and device the mask has.

    Example:
        >>> causal_mask(2, 3, torch.empty(0))
        tensor([[0., -inf, -inf],
                [0., 0., -inf]])
    """
    later = torch.ones(queries, keys, dtype=torch.bool, device=like.device).triu(1)
    return additive_mask(later, like.dtype, blocks=True)


def join_masks(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Return the mask that blocks what either blocks, None where there is neither."""
    if first is None or second is None:
        return second if first is None else first
    return first + second


def extend_mask(mask: Tensor | None, keys: int) -> Tensor | None:
    """Return a mask with some more keys at the end, to which every query may attend."""
    return mask if mask is None or not keys else F.pad(mask, (0, keys))


def open_empty_rows(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Let a query that may attend to no key attend to all, and say which queries those are.

    The softmax of such a row is not a number, and neither are its gradients. Opened, the row is
    finite, and its weights are set to zero afterwards.

    Args:
        mask: mask to add to the scores, ``[..., queries, keys]``.

    Returns:
        The mask without empty rows, and which rows were empty, ``[..., queries, 1]``.
    """
    empty = (mask == _BLOCKED).all(dim=-1, keepdim=True)
    return mask.masked_fill(empty, 0.0), empty


def split_blocking(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Split a mask into what belongs to the values of the scores, and what takes keys away.

    A quantizer of the scores has to see the first and not the second: infinity would be clamped
    to the nearest integer, and very large numbers would be counted in its statistics. Numbers
    from half of the largest negative one on count as infinite; many models write them so.

    Args:
        mask: mask to add to the scores.

    Returns:
        The finite part and the blocking part; their sum is the mask.

    Example:
        >>> split_blocking(torch.tensor([0.5, -float("inf")]))
        (tensor([0.5000, 0.0000]), tensor([0., -inf]))
    """
    blocked = mask <= torch.finfo(mask.dtype).min / 2
    return mask.masked_fill(blocked, 0.0), mask.masked_fill(~blocked, 0.0)
