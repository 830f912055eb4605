"""The largest magnitude of a tensor, and its gradient. Layer: ops (L1).

Over a whole tensor the gradient is shared equally by the elements of largest magnitude, over rows
it goes to one element of each row.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Largest", "add_at_largest", "largest_magnitude"]

# Elements from which one pass that allocates nothing beats an absolute value in new memory.
_LARGE = 65536

#: The largest magnitudes, and for rows the place of each.
Largest = tuple[Tensor, Tensor | None]


def _rows(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], -1)


def largest_magnitude(x: Tensor, by_row: bool) -> Largest:
    """Find the largest magnitude of a tensor, or of each of its rows.

    Args:
        x: real values.
        by_row: one for each index of the first dimension.

    Returns:
        The magnitudes, 0-d or ``[rows, 1]``; and for rows where they lie, ``[rows, 1]``.

    Example:
        >>> largest_magnitude(torch.tensor([[1.0, -3.0], [0.0, 2.0]]), by_row=True)[0]
        tensor([[3.],
                [2.]])
    """
    if by_row:
        magnitudes, places = torch.abs(_rows(x)).max(1, keepdim=True)
        return magnitudes, places
    if x.numel() <= _LARGE:
        return torch.abs(x).amax(), None
    smallest, largest = torch.aminmax(x)
    return torch.maximum(smallest.neg(), largest), None


def add_at_largest(grad_x: Tensor, x: Tensor, largest: Largest, grad: Tensor) -> None:
    """Add the gradient of the largest magnitudes to that of the tensor, in place.

    Args:
        grad_x: gradient of ``x``.
        x: real values.
        largest: what ``largest_magnitude`` found.
        grad: gradient of the magnitudes, in their shape.

    Example:
        >>> x, grad_x = torch.tensor([1.0, -3.0]), torch.zeros(2)
        >>> add_at_largest(grad_x, x, largest_magnitude(x, by_row=False), torch.tensor(0.5))
        >>> grad_x
        tensor([ 0.0000, -0.5000])
    """
    magnitude, places = largest
    if places is not None:
        signs = _rows(x).gather(1, places).sign_()
        grad_x.view(len(x), -1).scatter_add_(1, places, signs.mul_(grad))
        return
    blocks = _blocks_with_largest(grad_x, x, magnitude)
    masks = [torch.abs(block).eq_(magnitude) for _, block in blocks]
    count = torch.stack([mask.sum() for mask in masks]).sum() if len(masks) > 1 else masks[0].sum()
    share = grad / count
    for mask, (grad_block, block) in zip(masks, blocks, strict=True):
        grad_block.addcmul_(mask.mul_(torch.sign(block)), share)


def _blocks_with_largest(
    grad_x: Tensor, x: Tensor, magnitude: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """The parts of a large tensor that hold an element of largest magnitude; a small one whole."""
    is_flat = x.is_contiguous() and grad_x.is_contiguous()
    if x.numel() <= _LARGE or x.device.type != "cpu" or not is_flat:
        return [(grad_x, x)]
    pairs = zip(grad_x.view(-1).split(_LARGE), x.view(-1).split(_LARGE), strict=True)
    found = [pair for pair in pairs if bool(largest_magnitude(pair[1], False)[0] == magnitude)]
    return found or [(grad_x, x)]  # none: a NaN is equal to nothing
