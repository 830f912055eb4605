"""A scale for each group of elements of an input, found at each call. Layer: core (L3)."""

from __future__ import annotations

from torch import Tensor, nn

from brevitas.core.function_wrapper.shape import group_elements_dim
from brevitas.core.scaling._restriction import ScaleRestriction, ScaleSource, SourceKind

__all__ = ["RuntimeDynamicGroupStatsScaling"]


class RuntimeDynamicGroupStatsScaling(nn.Module):
    """Scale of each group of the input, found anew at each call and never averaged.

    ``scale = restrict(stats(view(x))) / threshold``, one for each group of ``group_size``
    elements along ``group_dim``.

    Args:
        group_size: number of elements of a group.
        group_dim: dimension that is split into groups; it may count from the end.
        input_view_impl: view of ``x`` in groups, ``[.., groups, group_size, ..]``.
        scaling_stats_impl: statistic that reduces the elements of a group.
        scaling_min_val: smallest real value before the division; None for none.
        restrict_scaling_impl: restriction of the statistic (float by default).
        restrict_threshold_impl: restriction of the threshold.
        restrict_scale_threshold_impl: restriction of the quotient.

    Example:
        >>> from brevitas.core.function_wrapper.shape import DynamicOverSubChannelBlockView
        >>> from brevitas.core.stats import AbsMax
        >>> view, largest = DynamicOverSubChannelBlockView(2, -1), AbsMax(-1, keepdim=True)
        >>> scaling = RuntimeDynamicGroupStatsScaling(2, -1, view, largest, None)
        >>> scaling(torch.tensor([1.0, -4.0, 2.0]), torch.tensor(8.0))
        tensor([[0.5000],
                [0.2500]])

    Reference: Rouhani et al., "Microscaling Data Formats for Deep Learning", 2023.
    """

    def __init__(
        self,
        group_size: int,
        group_dim: int,
        input_view_impl: nn.Module,
        scaling_stats_impl: nn.Module,
        scaling_min_val: float | None,
        restrict_scaling_impl: nn.Module | None = None,
        restrict_threshold_impl: nn.Module | None = None,
        restrict_scale_threshold_impl: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.group_size = group_size
        self.group_dim = group_dim
        self.input_view_impl = input_view_impl
        self.scaling_stats_impl = scaling_stats_impl
        self.restriction = ScaleRestriction(
            restrict_scaling_impl,
            scaling_min_val,
            restrict_threshold_impl,
            restrict_scale_threshold_impl,
        )

    def read(self, stats_input: Tensor) -> ScaleSource:
        """Return the statistic of each group, ``[.., groups, 1, ..]``."""
        in_groups = self.input_view_impl(stats_input)
        statistic = self.scaling_stats_impl(in_groups)
        shape = list(in_groups.shape)
        shape[group_elements_dim(self.group_dim)] = 1
        # Some statistics leave the dimension that they reduce out.
        return ScaleSource(SourceKind.STATISTIC, statistic.reshape(shape))

    def forward(self, stats_input: Tensor, threshold: Tensor | None = None) -> Tensor:
        """Return the scale of each group of ``stats_input`` divided by ``threshold``."""
        return self.restriction.scale_of(self.read(stats_input), threshold)
