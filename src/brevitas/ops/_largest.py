"""The largest magnitude of a tensor, and its gradient. Layer: ops (L1).

Over a whole tensor the gradient is shared equally by the elements of largest magnitude, over rows
it goes to one element of each row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Largest", "add_at_largest", "largest_magnitude"]

# Elements from which it pays to look at each row apart: no absolute value in new memory, and only
# the rows that hold a largest element are searched for it.
_LARGE = 65536


class Largest(NamedTuple):
    """Largest magnitudes, and what is known of the elements that have them.

    Attributes:
        magnitude: 0-d, or ``[rows, 1]``.
        places: where they lie in each row, ``[rows, 1]``; None for a whole tensor.
        of_rows: largest magnitude of each row of a large tensor, ``[rows]``; None for others.
    """

    magnitude: Tensor
    places: Tensor | None = None
    of_rows: Tensor | None = None


def _rows(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], -1)


def largest_magnitude(x: Tensor, by_row: bool) -> Largest:
    """Find the largest magnitude of a tensor, or of each of its rows.

    Args:
        x: real values.
        by_row: one for each index of the first dimension.

    Example:
        >>> largest_magnitude(torch.tensor([[1.0, -3.0], [0.0, 2.0]]), by_row=True).magnitude
        tensor([[3.],
                [2.]])
    """
    if by_row:
        return Largest(*torch.abs(_rows(x)).max(1, keepdim=True))
    if x.numel() <= _LARGE or x.dim() < 2:
        return Largest(torch.abs(x).amax())
    rows = _rows(x)
    of_rows = torch.maximum(rows.amin(1).neg_(), rows.amax(1))
    return Largest(of_rows.amax(), of_rows=of_rows)


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
    magnitude, places, of_rows = largest
    if places is not None:
        signs = _rows(x).gather(1, places).sign_()
        grad_x.view(len(x), -1).scatter_add_(1, places, signs.mul_(grad))
    elif of_rows is not None:
        found = of_rows.eq(magnitude).nonzero().squeeze(1)
        grad_x.index_add_(0, found, _shares(x[found], magnitude, grad))
    else:
        grad_x.add_(_shares(x, magnitude, grad))


def _shares(x: Tensor, magnitude: Tensor, grad: Tensor) -> Tensor:
    """The gradient, shared equally by the elements of a magnitude, with their signs."""
    mask = torch.abs(x).eq_(magnitude)
    share = grad / mask.sum()
    return mask.mul_(torch.sign(x)).mul_(share)
