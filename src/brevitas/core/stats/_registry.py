"""The list of statistics, and whether each of them can be negative.

Layer: core (L3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn

__all__ = ["SIGNEDNESS_STATS", "register_stats_implementation"]

StatsModule = TypeVar("StatsModule", bound=type[nn.Module])

SIGNEDNESS_STATS: dict[type[nn.Module], bool] = {}


def register_stats_implementation(signed: bool = False) -> Callable[[StatsModule], StatsModule]:
    """Return a class decorator that lists a statistic in `SIGNEDNESS_STATS`.

    Args:
        signed: True if a scale taken from the statistic may be negative.

    Returns:
        Decorator that returns the class unchanged.

    Example:
        >>> @register_stats_implementation(signed=True)
        ... class First(nn.Module):
        ...     def forward(self, x): return x.flatten()[0]
        >>> SIGNEDNESS_STATS.pop(First)
        True
    """

    def register(stats_class: StatsModule) -> StatsModule:
        SIGNEDNESS_STATS[stats_class] = signed
        return stats_class

    return register
