"""How one dimension of a tensor is split into groups, and made one again. Layer: utils (L0).

Groups run along one dimension, `[.., n, ..]` viewed as `[.., groups, group_size, ..]`, and the last
one is filled up with zeros. Dimensions are those of the tensor without groups, counted from the
front.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from brevitas.utils.torch_utils import padding_to_multiple

__all__ = ["expand_over_groups", "grouped_shape", "merge_groups", "split_groups"]


def grouped_shape(shape: Sequence[int], group_size: int, dim: int) -> tuple[int, ...]:
    """Return the shape of a tensor in groups.

    Args:
        shape: Shape of the tensor without groups.
        group_size: Elements of a group.
        dim: Dimension that is split.

    Example:
        >>> grouped_shape((2, 10), 4, 1)
        (2, 3, 4)
    """
    return (*shape[:dim], -(-shape[dim] // group_size), group_size, *shape[dim + 1 :])


def split_groups(x: Tensor, group_size: int, dim: int) -> Tensor:
    """Split a dimension into groups, the last one filled up with zeros.

    Args:
        x: `[.., n, ..]`.
        group_size: Elements of a group.
        dim: Dimension that is split.

    Returns:
        `[.., groups, group_size, ..]`.

    Example:
        >>> import torch
        >>> split_groups(torch.arange(3.0), 2, 0)
        tensor([[0., 1.],
                [2., 0.]])
    """
    padded = padding_to_multiple(x, dim, group_size)
    return padded.unflatten(dim, (padded.shape[dim] // group_size, group_size))


def merge_groups(grouped: Tensor, dim: int, size: int) -> Tensor:
    """Make one dimension of groups and what is in them, without what fills up the last group.

    Args:
        grouped: `[.., groups, group_size, ..]`.
        dim: Dimension of the groups.
        size: Size of the dimension that comes of it.

    Returns:
        `[.., size, ..]`.

    Example:
        >>> import torch
        >>> merge_groups(torch.arange(4.0).reshape(2, 2), 0, 3)
        tensor([0., 1., 2.])
    """
    merged = grouped.flatten(dim, dim + 1)
    return merged if merged.shape[dim] == size else merged.narrow(dim, 0, size)


def expand_over_groups(field: Tensor, shape: Sequence[int], dim: int, size: int) -> Tensor:
    """Bring what belongs to groups, such as a scale, into the shape of the tensor.

    Args:
        field: `[.., groups, 1, ..]`, or one number for all groups, which stays one.
        shape: Shape of the values in groups, `[.., groups, group_size, ..]`.
        dim: Dimension of the groups.
        size: Size of the dimension that comes of it.

    Returns:
        `[.., size, ..]`, or the one number.

    Example:
        >>> import torch
        >>> expand_over_groups(torch.tensor([[1.0], [2.0]]), (2, 2), 0, 3)
        tensor([1., 1., 2.])
    """
    # One number for all, and not that of a single group.
    if field.numel() == 1 and field.dim() < len(shape):
        return field
    return merge_groups(field.expand(tuple(shape)), dim, size)
