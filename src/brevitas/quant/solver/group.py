"""Solvers of quantizers with one scale for each group of elements. Layer: quant (L5).

Groups run along one dimension, ``[.., n, ..]`` viewed as ``[.., groups, group_size, ..]``, and the
last one is filled up with zeros. Scale and statistic keep the dimension of a group's elements.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

from brevitas.core.function_wrapper.misc import Identity
from brevitas.core.function_wrapper.shape import (
    DynamicOverSubChannelBlockView,
    OverSubChannelBlockView,
    check_group_dim,
    check_group_size,
    dimension_of_groups,
    group_elements_dim,
)
from brevitas.inject import DependencyError, ExtendedInjector, value
from brevitas.inject.enum import ScalingPerOutputType
from brevitas.quant.solver.common import as_granularity
from brevitas.utils.groups import grouped_shape

__all__ = ["SolveActGroups", "SolveWeightGroups", "first_module"]

_WEIGHT_VIEW: dict[ScalingPerOutputType, type[nn.Module]] = {
    ScalingPerOutputType.GROUP: OverSubChannelBlockView
}
_ACT_VIEW: dict[ScalingPerOutputType, type[nn.Module]] = {
    ScalingPerOutputType.GROUP: DynamicOverSubChannelBlockView
}
#: Layer -> dimension of its input and output that counts channels.
_CHANNEL_DIM: tuple[tuple[type[nn.Module], int], ...] = ((nn.Linear, -1), (_ConvNd, 1))


def first_module(module: Any) -> Any:
    """The layer that a quantizer belongs to, the first one where several share it.

    Example:
        >>> layer = nn.ReLU()
        >>> first_module((layer, nn.Tanh())) is layer
        True
    """
    return module[0] if isinstance(module, tuple) else module


class SolveGroups(ExtendedInjector):
    """The dimension of a group's elements, once ``group_dim`` is split into groups."""

    @value
    def group_elements_dim(group_dim: Any) -> int:
        return group_elements_dim(check_group_dim(group_dim))


class SolveWeightGroups(SolveGroups):
    """``group_size`` and ``group_dim`` -> the view of a weight in groups, and its scale's shape.

    By default groups run along the input channels, whose products an output sums.
    """

    @value
    def group_dim(output_channel_dim: int) -> int:
        return 1 if output_channel_dim == 0 else 0

    @value
    def input_view_impl(scaling_per_output: Any = None) -> Any:
        return _WEIGHT_VIEW.get(as_granularity(scaling_per_output), Identity)

    @value
    def expanded_groupwise_shape(
        tracked_parameter_list: Any, group_dim: Any, group_size: Any = None
    ) -> tuple[int, ...]:
        shapes = {tuple(weight.shape) for weight in tracked_parameter_list}
        if len(shapes) > 1:
            raise DependencyError(
                f"a scale per group is shared by weights of shapes {sorted(shapes)}: expected "
                "equal shapes; give each layer its own quantizer."
            )
        shape = shapes.pop()
        if group_size is None:
            raise DependencyError(
                "group_size is missing: expected the number of elements that share a scale, such "
                "as 32, with a keyword or in the quantizer."
            )
        dim = dimension_of_groups(group_dim, shape)
        return grouped_shape(shape, check_group_size(group_size), dim)

    @value
    def scaling_per_group_shape(
        expanded_groupwise_shape: tuple[int, ...], group_elements_dim: int
    ) -> tuple[int, ...]:
        shape = list(expanded_groupwise_shape)
        shape[group_elements_dim] = 1
        return tuple(shape)


class SolveActGroups(SolveGroups):
    """``group_size`` and ``group_dim`` -> the view of an activation in groups.

    By default groups run along the channels of the layer's input or output.
    """

    @value
    def group_dim(module: Any) -> int:
        layer = first_module(module)
        for kind, dim in _CHANNEL_DIM:
            if isinstance(layer, kind):
                return dim
        raise DependencyError(
            "group_dim is missing: expected the dimension along which groups of this activation "
            "run, such as -1 for features or 1 for the channels of images, with a keyword or in "
            "the quantizer."
        )

    @value
    def input_view_impl(scaling_per_output: Any = None) -> Any:
        return _ACT_VIEW.get(as_granularity(scaling_per_output), Identity)
