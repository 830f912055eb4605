"""Statistics of extreme values: largest magnitude, range, smallest value.

Layer: core (L3).

Ties: over a whole tensor the gradient is shared equally by the extreme elements, over one
dimension it goes to one of them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from brevitas.core.stats._registry import register_stats_implementation
from brevitas.utils.autograd import DirectFunction

__all__ = [
    "AbsMax",
    "AbsMaxAve",
    "AbsMaxL2",
    "AbsMinMax",
    "NegativeMinOrZero",
    "SignedAbsMax",
]


def _equal_shares(x: Tensor, extreme: Tensor) -> Tensor:
    """One over their number where elements equal the extreme, else zero; overwrites `x`."""
    is_extreme = x.eq_(extreme)
    return is_extreme.div_(is_extreme.sum(dtype=torch.float32))


class _ExtremeFn(DirectFunction):
    """Base: an extreme value of a whole tensor; keeps no intermediate tensor for the gradient."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        """Save the input and its extreme value."""
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Share the gradient among the elements that equal the extreme."""
        x, extreme = ctx.saved_tensors
        return _equal_shares(x.detach().clone(), extreme.detach()) * grad_y


class _MaxFn(_ExtremeFn):
    """Largest value."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Return `max(x)`, a 0-d tensor."""
        return x.amax()


class _MinFn(_ExtremeFn):
    """Smallest value."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Return `min(x)`, a 0-d tensor."""
        return x.amin()


class _AbsMaxFn(_ExtremeFn):
    """Largest magnitude."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Return `max(|x|)`, a 0-d tensor."""
        return torch.abs(x).amax()

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> Tensor:
        """Share the gradient among the elements of largest magnitude, with their signs."""
        x, largest = ctx.saved_tensors
        x, largest = x.detach(), largest.detach()
        shares = _equal_shares(torch.abs(x), largest).copysign_(x)
        return shares * (grad_y * (largest != 0))


def needs_gradient(x: Tensor) -> bool:
    """True if autograd will ask for the gradient of `x`."""
    return torch.is_grad_enabled() and x.requires_grad


def abs_max(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Largest magnitude, over the whole tensor or along one dimension.

    Args:
        x: Any floating-point tensor.
        dim: Dimension to reduce, or None for all of them.
        keepdim: Keep the reduced dimension with size one.

    Returns:
        0-d tensor, or `x` without `dim`.

    Example:
        >>> abs_max(torch.tensor([[1., -3.], [0., 2.]]), dim=1)
        tensor([3., 2.])
    """
    if dim is None:
        return _AbsMaxFn.apply(x)
    if not needs_gradient(x):
        return torch.abs(x).amax(dim, keepdim=keepdim)
    index = torch.abs(x.detach()).max(dim, keepdim=True)[1]
    largest = torch.abs(x.gather(dim, index))
    return largest if keepdim else largest.squeeze(dim)


def _max(x: Tensor, dim: int | None, keepdim: bool) -> Tensor:
    return _MaxFn.apply(x) if dim is None else torch.max(x, dim, keepdim=keepdim)[0]


def _min(x: Tensor, dim: int | None, keepdim: bool) -> Tensor:
    return _MinFn.apply(x) if dim is None else torch.min(x, dim, keepdim=keepdim)[0]


@register_stats_implementation()
class AbsMax(nn.Module):
    """Largest magnitude, `y = max(|x|)`.

    Args:
        stats_reduce_dim: Dimension to reduce, or None for all of them.
        keepdim: Keep the reduced dimension with size one.

    Example:
        >>> AbsMax(stats_reduce_dim=1)(torch.tensor([[1., -3.], [0., 2.]]))
        tensor([3., 2.])
    """

    def __init__(self, stats_reduce_dim: int | None = None, keepdim: bool = False) -> None:
        super().__init__()
        self.stats_reduce_dim = stats_reduce_dim
        self.keepdim = keepdim

    def forward(self, x: Tensor) -> Tensor:
        """Return the statistic: 0-d, or `x` without the reduced dimension."""
        return abs_max(x, self.stats_reduce_dim, self.keepdim)


@register_stats_implementation(signed=True)
class SignedAbsMax(nn.Module):
    """Element of largest magnitude, negated: `y = -x[argmax(|x|)]`.

    Divided by it, that element becomes negative, where two's complement has one value more.

    Args:
        stats_reduce_dim: Dimension to reduce, or None for all of them.
        keepdim: Keep the reduced dimension with size one.

    Example:
        >>> SignedAbsMax(stats_reduce_dim=1)(torch.tensor([[1., -3.], [0., 2.]]))
        tensor([ 3., -2.])
    """

    def __init__(self, stats_reduce_dim: int | None = None, keepdim: bool = False) -> None:
        super().__init__()
        self.stats_reduce_dim = stats_reduce_dim
        self.keepdim = keepdim

    def forward(self, x: Tensor) -> Tensor:
        """Return the statistic: 0-d, or `x` without the reduced dimension."""
        dim = self.stats_reduce_dim
        if dim is None:
            x = x.reshape(-1)
            return -x.gather(0, torch.abs(x.detach()).argmax(0, keepdim=True)).reshape(())
        extreme = -x.gather(dim, torch.abs(x.detach()).max(dim, keepdim=True)[1])
        return extreme if self.keepdim else extreme.squeeze(dim)


@register_stats_implementation()
class AbsMinMax(nn.Module):
    """Length of the range of values, from zero if none is negative: `y = max(x) - min(x, 0)`.

    Args:
        stats_reduce_dim: Dimension to reduce, or None for all of them.
        keepdim: Keep the reduced dimension with size one.
        dtype: Unused, accepted since other statistics take it.
        device: Unused, accepted since other statistics take it.

    Example:
        >>> AbsMinMax()(torch.tensor([1., -3., 2.]))
        tensor(5.)
    """

    def __init__(
        self,
        stats_reduce_dim: int | None = None,
        keepdim: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.stats_reduce_dim = stats_reduce_dim
        self.keepdim = keepdim

    def forward(self, x: Tensor) -> Tensor:
        """Return the statistic: 0-d, or `x` without the reduced dimension."""
        largest = _max(x, self.stats_reduce_dim, self.keepdim)
        smallest = _min(x, self.stats_reduce_dim, self.keepdim).clamp_max(0.0)
        return torch.abs(largest - smallest)


@register_stats_implementation()
class NegativeMinOrZero(nn.Module):
    """Smallest value if it is negative, else zero: `y = min(x, 0)`.

    Args:
        stats_reduce_dim: Dimension to reduce, or None for all of them.
        dtype: Unused, accepted since other statistics take it.
        device: Unused, accepted since other statistics take it.
        keepdim: Keep the reduced dimension with size one.

    Example:
        >>> NegativeMinOrZero(stats_reduce_dim=1)(torch.tensor([[1., -3.], [1., 2.]]))
        tensor([-3.,  0.])
    """

    def __init__(
        self,
        stats_reduce_dim: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        keepdim: bool = False,
    ) -> None:
        super().__init__()
        self.stats_reduce_dim = stats_reduce_dim
        self.keepdim = keepdim

    def forward(self, x: Tensor) -> Tensor:
        """Return the statistic: 0-d, or `x` without the reduced dimension."""
        return _min(x, self.stats_reduce_dim, self.keepdim).clamp_max(0.0)


@register_stats_implementation()
class AbsMaxAve(nn.Module):
    """Mean of the largest magnitudes, `y = mean(max(|x|, dim))`.

    Args:
        stats_reduce_dim: Dimension over which magnitudes are compared.

    Example:
        >>> AbsMaxAve(stats_reduce_dim=1)(torch.tensor([[1., -3.], [0., 2.]]))
        tensor(2.5000)
    """

    def __init__(self, stats_reduce_dim: int) -> None:
        super().__init__()
        self.stats_reduce_dim = stats_reduce_dim

    def forward(self, x: Tensor) -> Tensor:
        """Return the statistic, 0-d."""
        return torch.mean(abs_max(x, self.stats_reduce_dim))


@register_stats_implementation()
class AbsMaxL2(nn.Module):
    """Root mean square of the largest magnitudes, `y = sqrt(mean(max(|x|, dim) ** 2))`.

    Args:
        stats_reduce_dim: Dimension over which magnitudes are compared.

    Example:
        >>> AbsMaxL2(stats_reduce_dim=1)(torch.tensor([[1., -1.], [0., 7.]]))
        tensor(5.)
    """

    def __init__(self, stats_reduce_dim: int) -> None:
        super().__init__()
        self.stats_reduce_dim = stats_reduce_dim

    def forward(self, x: Tensor) -> Tensor:
        """Return the statistic, 0-d."""
        largest = abs_max(x, self.stats_reduce_dim)
        return torch.linalg.vector_norm(largest) / math.sqrt(largest.numel())
