"""Views of a tensor over which statistics are computed, as modules.

Layer: core (L3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from brevitas.core.function_wrapper.misc import Identity
from brevitas.function.shape import (
    over_batch_over_output_channels,
    over_batch_over_tensor,
    over_output_channels,
    over_output_features,
    over_tensor,
)
from brevitas.utils.groups import split_groups
from brevitas.utils.torch_utils import padding_to_multiple

__all__ = [
    "DynamicOverSubChannelBlockView",
    "OverBatchOverOutputChannelView",
    "OverBatchOverTensorView",
    "OverOutputChannelView",
    "OverOutputFeaturesView",
    "OverSubChannelBlockView",
    "OverTensorView",
    "PermuteDims",
    "StatsInputViewShapeImpl",
    "check_group_dim",
    "check_group_size",
    "dimension_of_groups",
    "dynamic_over_sub_channel_block_view",
    "group_elements_dim",
]


class PermuteDims(nn.Module):
    """Reorder the dimensions of a tensor.

    Args:
        permute_dims: For each dimension of the result, the dimension it comes from.

    Raises:
        ValueError: For an input of another number of dimensions.

    Example:
        >>> PermuteDims((1, 0, 2))(torch.zeros(2, 3, 4)).shape
        torch.Size([3, 2, 4])
    """

    def __init__(self, permute_dims: tuple[int, ...]) -> None:
        super().__init__()
        self.permute_dims = tuple(permute_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` with its dimensions reordered, contiguous."""
        if x.dim() != len(self.permute_dims):
            raise ValueError(
                f"input of shape {tuple(x.shape)}: expected {len(self.permute_dims)} dimensions, "
                f"which scaling_stats_permute_dims={self.permute_dims} reorders; set it for inputs "
                f"of {x.dim()} dimensions, or use a quantizer that is made for them."
            )
        return x.permute(self.permute_dims).contiguous()


class OverTensorView(nn.Module):
    """Flatten, `[...] -> [n]`: one statistic for the whole tensor.

    Example:
        >>> OverTensorView()(torch.zeros(2, 3, 4)).shape
        torch.Size([24])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, flattened."""
        return x.reshape(over_tensor(x))


class _PermutedView(nn.Module):
    """Base: reorder the dimensions, then reshape by the rule of the subclass."""

    _shape_of: Callable[[Tensor], tuple[int, ...]]

    def __init__(self, permute_dims: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.permute_impl = Identity() if permute_dims is None else PermuteDims(permute_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, reordered and reshaped."""
        x = self.permute_impl(x)
        return x.reshape(type(self)._shape_of(x))


class OverOutputChannelView(_PermutedView):
    """`[out, ...] -> [out, n]`: one statistic per output channel.

    Args:
        permute_dims: Order of dimensions that brings the output channels first, if they are not.

    Example:
        >>> OverOutputChannelView(permute_dims=(1, 0, 2))(torch.zeros(2, 3, 4)).shape
        torch.Size([3, 8])
    """

    _shape_of = staticmethod(over_output_channels)


class OverBatchOverTensorView(_PermutedView):
    """`[batch, ...] -> [batch, n]`: one statistic per sample.

    Args:
        permute_dims: Order of dimensions that brings the batch first, if it is not.

    Example:
        >>> OverBatchOverTensorView()(torch.zeros(2, 3, 4)).shape
        torch.Size([2, 12])
    """

    _shape_of = staticmethod(over_batch_over_tensor)


class OverBatchOverOutputChannelView(_PermutedView):
    """`[batch, out, ...] -> [batch, out, n]`: one statistic per sample and output channel.

    Args:
        permute_dims: Order of dimensions that brings batch and channels first, if they are not.

    Example:
        >>> OverBatchOverOutputChannelView()(torch.zeros(2, 3, 4, 5)).shape
        torch.Size([2, 3, 20])
    """

    _shape_of = staticmethod(over_batch_over_output_channels)


class OverOutputFeaturesView(_PermutedView):
    """`[..., features] -> [n, features]`: one statistic per entry of the last dimension.

    Args:
        permute_dims: Order of dimensions that brings the features last, if they are not.

    Example:
        >>> OverOutputFeaturesView()(torch.zeros(2, 3, 4)).shape
        torch.Size([6, 4])
    """

    _shape_of = staticmethod(over_output_features)


def group_elements_dim(group_dim: int) -> int:
    """Dimension of a group's elements, once the dimension ``group_dim`` is split into groups.

    Example:
        >>> group_elements_dim(1), group_elements_dim(-1)  # [2, groups, 4], in both cases
        (2, -1)
    """
    return group_dim if group_dim < 0 else group_dim + 1


def dynamic_over_sub_channel_block_view(x: Tensor, group_size: int, group_dim: int) -> Tensor:
    """Split one dimension into groups, `[..., n, ...] -> [..., groups, group_size, ...]`.

    Args:
        x: Any tensor; zeros are appended to the last group if it is not full.
        group_size: Number of elements of a group.
        group_dim: Dimension that is split; it may count from the end.

    Returns:
        Tensor with one dimension more than `x`.

    Raises:
        ValueError: If `x` has no such dimension.

    Example:
        >>> dynamic_over_sub_channel_block_view(torch.zeros(2, 10), 4, 1).shape
        torch.Size([2, 3, 4])
    """
    return split_groups(x, group_size, dimension_of_groups(group_dim, x.shape))


def dimension_of_groups(group_dim: int, shape: Sequence[int]) -> int:
    """Return the dimension that is split into groups, counted from the front.

    Args:
        group_dim: Dimension that is split; it may count from the end.
        shape: Shape of the tensor without groups.

    Raises:
        ValueError: If there is no such dimension.

    Example:
        >>> dimension_of_groups(-1, (2, 10))
        1
    """
    rank = len(shape)
    if not -rank <= check_group_dim(group_dim) < rank:
        raise ValueError(
            f"group_dim={group_dim}: expected a dimension of the tensor of shape "
            f"{tuple(shape)}, from {-rank} to {rank - 1}."
        )
    return group_dim % rank


def check_group_dim(group_dim: int) -> int:
    """Return `group_dim`, or raise a ValueError if it is no integer."""
    if isinstance(group_dim, bool) or not isinstance(group_dim, int):
        raise ValueError(f"group_dim={group_dim!r}: expected an int, a dimension.")
    return group_dim


def check_group_size(group_size: int) -> int:
    """Return `group_size`, or raise a ValueError if it is no positive integer."""
    if isinstance(group_size, bool) or not isinstance(group_size, int) or group_size < 1:
        raise ValueError(f"group_size={group_size!r}: expected an int >= 1.")
    return group_size


class OverSubChannelBlockView(nn.Module):
    """Split one dimension of a tensor of known shape into groups, padding the last with zeros.

    Args:
        expanded_groupwise_shape: Shape of the result, `[..., groups, group_size, ...]`.
        group_size: Number of elements of a group.
        group_dim: Dimension that is split; it may count from the end.

    Raises:
        ValueError: If `group_size` is no positive integer, or `group_dim` no integer.

    Example:
        >>> view = OverSubChannelBlockView((2, 3, 4), group_size=4, group_dim=1)
        >>> view(torch.zeros(2, 10)).shape
        torch.Size([2, 3, 4])
    """

    def __init__(
        self, expanded_groupwise_shape: tuple[int, ...], group_size: int, group_dim: int
    ) -> None:
        super().__init__()
        self.expanded_groupwise_shape = tuple(expanded_groupwise_shape)
        self.group_size = check_group_size(group_size)
        self.group_dim = check_group_dim(group_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` of shape `[..., n, ...]` as `[..., groups, group_size, ...]`."""
        dim = dimension_of_groups(self.group_dim, x.shape)
        x = padding_to_multiple(x, dim, self.group_size)
        return x.reshape(self.expanded_groupwise_shape)


class DynamicOverSubChannelBlockView(nn.Module):
    """Split one dimension of a tensor of any shape into groups, padding the last with zeros.

    Args:
        group_size: Number of elements of a group.
        group_dim: Dimension that is split; it may count from the end.

    Raises:
        ValueError: If `group_size` is no positive integer, or `group_dim` no integer.

    Example:
        >>> DynamicOverSubChannelBlockView(group_size=4, group_dim=-1)(torch.zeros(2, 3, 10)).shape
        torch.Size([2, 3, 3, 4])
    """

    def __init__(self, group_size: int, group_dim: int) -> None:
        super().__init__()
        self.group_size = check_group_size(group_size)
        self.group_dim = check_group_dim(group_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` of shape `[..., n, ...]` as `[..., groups, group_size, ...]`."""
        return dynamic_over_sub_channel_block_view(x, self.group_size, self.group_dim)


class StatsInputViewShapeImpl:
    """The views by name, as users write them in a quantizer.

    Example:
        >>> StatsInputViewShapeImpl.OVER_TENSOR.__name__
        'OverTensorView'
    """

    OVER_TENSOR = OverTensorView
    OVER_OUTPUT_CHANNELS = OverOutputChannelView
    OVER_BATCH_OVER_TENSOR = OverBatchOverTensorView
    OVER_BATCH_OVER_OUTPUT_CHANNELS = OverBatchOverOutputChannelView
    OVER_OUTPUT_FEATURES = OverOutputFeaturesView
    OVER_SUBCHANNEL_BLOCK = OverSubChannelBlockView
    DYNAMIC_OVER_SUBCHANNEL_BLOCK = DynamicOverSubChannelBlockView
