"""Statistics that average: mean, mean plus deviations, norms.

Layer: core (L3).

Sums over half-precision tensors run in float32, those of norms in the next wider type; the result
has the type of the input.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from brevitas.core._state import LearnedValueModule
from brevitas.core.stats._registry import register_stats_implementation
from brevitas.utils.torch_utils import HALF_DTYPES, widened

__all__ = [
    "DEFAULT_STD_DEV_EPSILON",
    "AbsAve",
    "L1Norm",
    "L2Norm",
    "MeanLearnedSigmaStd",
    "MeanSigmaStd",
]

DEFAULT_STD_DEV_EPSILON = 1e-8


def mean_and_deviation(x: Tensor, dim: int | None, epsilon: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the magnitudes, flattened.

    `std = sqrt(var(|x|) + epsilon)` with the unbiased variance (zero for a single element).

    Args:
        x: Any floating-point tensor.
        dim: Dimension to reduce, or None for all of them.
        epsilon: Keeps the gradient of the root finite.

    Returns:
        Two 0-d tensors, or two of shape `[n]`; at least float32.

    Example:
        >>> mean_and_deviation(torch.tensor([1., -3.]), None, 0.)
        (tensor(2.), tensor(1.4142))
    """
    magnitude = torch.abs(widened(x))
    if dim is None:
        magnitude, dim = magnitude.reshape(-1), 0
        shape: tuple[int, ...] = ()
    else:
        shape = (-1,)
    mean = magnitude.mean(dim)
    count = magnitude.numel() // mean.numel() if mean.numel() else 0
    variance = magnitude.var(dim, correction=1 if count > 1 else 0)
    return mean.reshape(shape), torch.sqrt(variance + epsilon).reshape(shape)


@register_stats_implementation()
class AbsAve(nn.Module):
    """Mean magnitude, `y = mean(|x|)`.

    Args:
        stats_reduce_dim: Dimension to reduce, or None for all of them.

    Example:
        >>> AbsAve()(torch.tensor([1., -3.]))
        tensor(2.)
    """

    def __init__(self, stats_reduce_dim: int | None = None) -> None:
        super().__init__()
        self.stats_reduce_dim = stats_reduce_dim

    def forward(self, x: Tensor) -> Tensor:
        """Return the statistic: 0-d, or `x` without the reduced dimension."""
        magnitude = torch.abs(widened(x))
        if self.stats_reduce_dim is None:
            return magnitude.mean().to(x.dtype)
        return magnitude.mean(self.stats_reduce_dim).to(x.dtype)


@register_stats_implementation()
class MeanSigmaStd(nn.Module):
    """Mean plus some standard deviations of the magnitudes, `y = mean(|x|) + sigma * std(|x|)`.

    Args:
        sigma: Number of standard deviations.
        stats_reduce_dim: Dimension to reduce, or None for all of them.
        std_dev_epsilon: Added to the variance, keeps the gradient finite.
        dtype: Unused, accepted since other statistics take it.
        device: Unused, accepted since other statistics take it.

    Example:
        >>> MeanSigmaStd(sigma=2.)(torch.tensor([1., -3.]))
        tensor(4.8284)
    """

    def __init__(
        self,
        sigma: float,
        stats_reduce_dim: int | None = None,
        std_dev_epsilon: float = DEFAULT_STD_DEV_EPSILON,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.sigma = sigma
        self.stats_reduce_dim = stats_reduce_dim
        self.std_dev_epsilon = std_dev_epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Return the statistic: 0-d, or of shape `[n]` for the `n` entries left."""
        mean, deviation = mean_and_deviation(x, self.stats_reduce_dim, self.std_dev_epsilon)
        return (mean + self.sigma * deviation).to(x.dtype)


@register_stats_implementation()
class MeanLearnedSigmaStd(LearnedValueModule):
    """Mean plus a learned number of standard deviations, `y = mean(|x|) + value * std(|x|)`.

    Args:
        sigma: Initial number of standard deviations.
        stats_output_shape: Shape of the learned number, broadcastable to the statistic.
        stats_reduce_dim: Dimension to reduce, or None for all of them.
        std_dev_epsilon: Added to the variance, keeps the gradient finite.
        dtype: Type of the parameter, PyTorch's default type by default.
        device: Device of the parameter.

    Example:
        >>> statistic = MeanLearnedSigmaStd(sigma=2., stats_output_shape=())
        >>> statistic(torch.tensor([1., -3.])).detach()
        tensor(4.8284)
    """

    def __init__(
        self,
        sigma: float,
        stats_output_shape: tuple[int, ...],
        stats_reduce_dim: int | None = None,
        std_dev_epsilon: float = DEFAULT_STD_DEV_EPSILON,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.stats_reduce_dim = stats_reduce_dim
        self.std_dev_epsilon = std_dev_epsilon
        initial = torch.full(tuple(stats_output_shape), float(sigma), dtype=dtype, device=device)
        self.value = nn.Parameter(initial)

    def forward(self, x: Tensor) -> Tensor:
        """Return the statistic, of the broadcast shape of `[n]` and the learned number."""
        mean, deviation = mean_and_deviation(x, self.stats_reduce_dim, self.std_dev_epsilon)
        return mean + self.value * deviation


def summation_dtype(x: Tensor) -> torch.dtype:
    """The type in which a sum over ``x`` is correct to its last place: the next wider one.

    Metal has no 64-bit numbers; there, and for those, it is the type itself.

    Example:
        >>> summation_dtype(torch.ones(2, dtype=torch.float16)), summation_dtype(torch.ones(2))
        (torch.float32, torch.float64)
    """
    if x.dtype in HALF_DTYPES:
        return torch.float32
    has_double = x.device.type != "mps"
    return torch.float64 if has_double and x.dtype is torch.float32 else x.dtype


class _Norm(nn.Module):
    """Base: norm of the order that the subclass names; the reduced dimension is kept."""

    _order: int

    def __init__(self, stats_reduce_dim: int | None = None) -> None:
        super().__init__()
        self.stats_reduce_dim = stats_reduce_dim

    def forward(self, x: Tensor) -> Tensor:
        """Return the norm: 0-d, or `x` with size one in the reduced dimension."""
        dim = self.stats_reduce_dim
        norm = torch.linalg.vector_norm(
            x, self._order, dim=dim, keepdim=dim is not None, dtype=summation_dtype(x)
        )
        return norm.to(x.dtype)


@register_stats_implementation()
class L1Norm(_Norm):
    """Sum of magnitudes, `y = sum(|x|)`; the reduced dimension is kept with size one.

    Args:
        stats_reduce_dim: Dimension to reduce, or None for all of them.

    Example:
        >>> L1Norm(stats_reduce_dim=1)(torch.tensor([[3., -4.]]))
        tensor([[7.]])
    """

    _order = 1


@register_stats_implementation()
class L2Norm(_Norm):
    """Euclidean norm, `y = sqrt(sum(x ** 2))`; the reduced dimension is kept with size one.

    Args:
        stats_reduce_dim: Dimension to reduce, or None for all of them.

    Example:
        >>> L2Norm(stats_reduce_dim=1)(torch.tensor([[3., -4.]]))
        tensor([[5.]])
    """

    _order = 2
