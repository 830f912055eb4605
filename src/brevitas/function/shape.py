"""Views that bring a tensor into the shape over which one statistic is computed.

Layer: function (L1).

Each function returns the arguments of a `reshape`, not the reshaped tensor.
"""

from __future__ import annotations

from torch import Tensor

__all__ = [
    "over_tensor",
    "over_output_channels",
    "over_batch_over_tensor",
    "over_output_features",
    "over_batch_over_output_channels",
]


def over_tensor(x: Tensor) -> int:
    """Shape for one statistic of the whole tensor.

    Args:
        x: Any tensor.

    Returns:
        -1, which flattens.

    Example:
        >>> x = torch.zeros(2, 3, 4)
        >>> x.reshape(over_tensor(x)).shape
        torch.Size([24])
    """
    return -1


def over_output_channels(x: Tensor) -> tuple[int, int]:
    """Shape for one statistic per entry of the first dimension.

    Args:
        x: Tensor with at least one dimension, output channels first.

    Returns:
        `(channels, -1)`.

    Example:
        >>> over_output_channels(torch.zeros(2, 3, 4))
        (2, -1)
    """
    return x.shape[0], -1


def over_batch_over_tensor(x: Tensor) -> tuple[int, int]:
    """Shape for one statistic per sample.

    Args:
        x: Tensor with at least one dimension, batch first.

    Returns:
        `(batch, -1)`.

    Example:
        >>> over_batch_over_tensor(torch.zeros(2, 3, 4))
        (2, -1)
    """
    return x.shape[0], -1


def over_output_features(x: Tensor) -> tuple[int, int]:
    """Shape for one statistic per entry of the last dimension.

    Args:
        x: Tensor with at least one dimension, features last.

    Returns:
        `(-1, features)`.

    Example:
        >>> over_output_features(torch.zeros(2, 3, 4))
        (-1, 4)
    """
    return -1, x.shape[-1]


def over_batch_over_output_channels(x: Tensor) -> tuple[int, int, int]:
    """Shape for one statistic per sample and channel.

    Args:
        x: Tensor with at least two dimensions, batch first, channels second.

    Returns:
        `(batch, channels, -1)`.

    Example:
        >>> over_batch_over_output_channels(torch.zeros(2, 3, 4))
        (2, 3, -1)
    """
    return x.shape[0], x.shape[1], -1
