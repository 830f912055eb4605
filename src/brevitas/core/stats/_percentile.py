"""Statistics that leave out the most extreme values: percentiles.

Layer: core (L3).

A percentile is an element of the input, the k-th smallest with k from `q`; the gradient goes to
that element.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from brevitas.core.stats._registry import register_stats_implementation
from brevitas.core.stats._selection import nth_largest_index, nth_smallest_index

__all__ = ["AbsPercentile", "NegativePercentileOrZero", "PercentileInterval"]


def _check_percentage(value: float | None, name: str) -> float:
    if value is None or not 0 <= value <= 100:
        raise ValueError(f"{name}={value!r}: expected a percentage, a number from 0 to 100.")
    return value


def _rows(x: Tensor, dim: int | None) -> Tensor:
    """Bring the dimension to reduce last and flatten the others, `[rows, length]`."""
    if dim is None or x.dim() == 1:
        rows = x.reshape(1, -1)
    else:
        rows = x.movedim(dim, -1).flatten(0, -2)
    if rows.shape[-1] == 0:
        raise ValueError(
            f"input of shape {tuple(x.shape)}, reduced over {dim}: "
            "expected at least one element for a percentile."
        )
    return rows


def _restore(values: Tensor, x: Tensor, dim: int | None, keepdim: bool) -> Tensor:
    """Bring `[rows, 1]` back to the shape of `x` without the reduced dimension."""
    if dim is None:
        return values.reshape(())
    dim = dim % x.dim()
    middle = (1,) if keepdim else ()
    return values.reshape(x.shape[:dim] + middle + x.shape[dim + 1 :])


def _nearest_position(q: float, length: int) -> int:
    """Position from the smallest, 1 to `length`, nearest to `q` percent."""
    return min(max(math.floor(0.01 * q * length + 0.5), 1), length)


def _upper_position(q: float, length: int) -> int:
    """Position from the smallest, 1 to `length`, not below `q` percent."""
    return min(max(math.ceil(0.01 * q * length), 1), length)


def _high_percentile(rows: Tensor, q: float, magnitude: bool) -> Tensor:
    length = rows.shape[-1]
    searched = torch.abs(rows.detach()) if magnitude else rows.detach()
    index = nth_largest_index(searched, length - _nearest_position(q, length) + 1)
    value = rows.gather(-1, index)
    return torch.abs(value) if magnitude else value


def _low_percentile(rows: Tensor, q: float) -> Tensor:
    position = _upper_position(q, rows.shape[-1])
    return rows.gather(-1, nth_smallest_index(rows.detach(), position))


@register_stats_implementation()
class AbsPercentile(nn.Module):
    """Percentile of the magnitudes, the k-th smallest `|x|` with `k = floor(q * n / 100 + 0.5)`.

    Args:
        high_percentile_q: Percentage of magnitudes at or below the result.
        stats_reduce_dim: Dimension to reduce, or None for all of them.
        percentile_q: Older name of `high_percentile_q`.
        keepdim: Keep the reduced dimension with size one.

    Raises:
        ValueError: If the percentage is missing or not from 0 to 100.

    Example:
        >>> AbsPercentile(75.)(torch.tensor([1., -9., 3., -2.]))
        tensor(3.)
    """

    def __init__(
        self,
        high_percentile_q: float | None = None,
        stats_reduce_dim: int | None = None,
        percentile_q: float | None = None,
        keepdim: bool = False,
    ) -> None:
        super().__init__()
        q = percentile_q if high_percentile_q is None else high_percentile_q
        self.q = _check_percentage(q, "high_percentile_q")
        self.stats_reduce_dim = stats_reduce_dim
        self.keepdim = keepdim

    def forward(self, x: Tensor) -> Tensor:
        """Return the statistic: 0-d, or `x` without the reduced dimension."""
        dim = self.stats_reduce_dim
        value = _high_percentile(_rows(x, dim), self.q, magnitude=True)
        return _restore(value, x, dim, self.keepdim)


@register_stats_implementation()
class NegativePercentileOrZero(nn.Module):
    """Low percentile if it is negative, else zero: the k-th smallest `x`, `k = ceil(q * n / 100)`.

    Args:
        low_percentile_q: Percentage of values at or below the result.
        stats_reduce_dim: Dimension to reduce, or None for all of them.
        dtype: Unused, accepted since other statistics take it.
        device: Unused, accepted since other statistics take it.
        keepdim: Keep the reduced dimension with size one.

    Raises:
        ValueError: If the percentage is not from 0 to 100.

    Example:
        >>> NegativePercentileOrZero(50.)(torch.tensor([1., -9., 3., -2.]))
        tensor(-2.)
    """

    def __init__(
        self,
        low_percentile_q: float,
        stats_reduce_dim: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        keepdim: bool = False,
    ) -> None:
        super().__init__()
        self.q = _check_percentage(low_percentile_q, "low_percentile_q")
        self.stats_reduce_dim = stats_reduce_dim
        self.keepdim = keepdim

    def forward(self, x: Tensor) -> Tensor:
        """Return the statistic: 0-d, or `x` without the reduced dimension."""
        dim = self.stats_reduce_dim
        low = _low_percentile(_rows(x, dim), self.q).clamp_max(0.0)
        return _restore(low, x, dim, self.keepdim)


@register_stats_implementation()
class PercentileInterval(nn.Module):
    """Length of the range between two percentiles, `y = |high - min(low, 0)|`.

    Args:
        low_percentile_q: Percentage of values at or below the lower end.
        high_percentile_q: Percentage of values at or below the upper end.
        stats_reduce_dim: Dimension to reduce, or None for all of them.
        keepdim: Keep the reduced dimension with size one.
        dtype: Unused, accepted since other statistics take it.
        device: Unused, accepted since other statistics take it.

    Raises:
        ValueError: If a percentage is not from 0 to 100.

    Example:
        >>> PercentileInterval(25., 75.)(torch.tensor([1., -9., 3., -2.]))
        tensor(10.)
    """

    def __init__(
        self,
        low_percentile_q: float,
        high_percentile_q: float,
        stats_reduce_dim: int | None = None,
        keepdim: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.low_q = _check_percentage(low_percentile_q, "low_percentile_q")
        self.high_q = _check_percentage(high_percentile_q, "high_percentile_q")
        self.stats_reduce_dim = stats_reduce_dim
        self.keepdim = keepdim

    def forward(self, x: Tensor) -> Tensor:
        """Return the statistic: 0-d, or `x` without the reduced dimension."""
        dim = self.stats_reduce_dim
        rows = _rows(x, dim)
        high = _high_percentile(rows, self.high_q, magnitude=False)
        low = _low_percentile(rows, self.low_q).clamp_max(0.0)
        return _restore(torch.abs(high - low), x, dim, self.keepdim)
