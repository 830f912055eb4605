"""Statistics that are searched for: the candidate with which quantization errs least.

Layer: core (L3).

A search quantizes the tensor with each candidate, through the quantizer that the statistic is part
of. All channels, or groups, are searched at once. No gradient passes through a search: the scale
that it finds is a constant of the tensor. To a compiler a search is one operator.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from brevitas.core._phase import HostModule
from brevitas.core._trial import current_trial, trying
from brevitas.utils.torch_utils import widened

__all__ = ["CandidateQuantizer", "SearchedStatistic", "mse_fib_search", "mse_grid_search"]

Loss = Callable[[Tensor], Tensor]


class CandidateQuantizer(Protocol):
    """What a search needs of the quantizer that its statistic is part of: its proxy."""

    @property
    def is_signed(self) -> bool | None:
        """True for signed integers."""
        ...

    @property
    def is_narrow_range(self) -> bool | None:
        """True where one integer is left out for symmetry."""
        ...

    def try_quantize(self, x: Tensor) -> tuple[Any, ...]:
        """Return ``(value, scale, zero_point, bit_width)`` of ``x``."""
        ...

    def as_quantized(self, x: Tensor) -> Tensor:
        """Return ``x`` in the shape in which the quantizer returns it."""
        ...


class SearchedStatistic(HostModule):
    """Base of statistics that are found by quantizing with candidates.

    Scale and zero point are searched one after the other. While one is, the other stays at its
    last result, which for a zero point is that of the batch before; at first, at its start.

    Args:
        proxy_module: proxy of the quantizer; no child module.
        init_op: statistic from which the search starts, reducing the view.
        view: view of the tensor, and of its quantization error, that is reduced.
        stats_reduce_dim: dimension of the view to reduce, or None for all of them.

    Raises:
        TypeError: for a proxy that cannot quantize candidates.
    """

    def __init__(
        self,
        proxy_module: CandidateQuantizer,
        init_op: nn.Module,
        view: nn.Module,
        stats_reduce_dim: int | None,
    ) -> None:
        super().__init__()
        if not callable(getattr(proxy_module, "try_quantize", None)):
            raise TypeError(
                f"proxy_module={proxy_module!r}: expected the proxy of the quantizer that the "
                "statistic is part of, with a method `try_quantize`."
            )
        # A tuple keeps the proxy out of the child modules: it holds this module itself.
        self._proxy: tuple[CandidateQuantizer] = (proxy_module,)
        self.init_op = init_op
        self.input_view_shape_impl = view
        self.stats_reduce_dim = stats_reduce_dim
        #: The result of the last search.
        self.found: Tensor | None = None

    @property
    def quantizer(self) -> CandidateQuantizer:
        """The proxy of the quantizer that the statistic is part of."""
        return self._proxy[0]

    def start(self, x: Tensor) -> Tensor:
        """Return the statistic from which the search starts."""
        view = self.input_view_shape_impl
        return widened(self.init_op(view(self.quantizer.as_quantized(x))))

    def quantize(self, x: Tensor, candidate: Tensor) -> tuple[Any, ...]:
        """Return ``(value, scale, zero_point, bit_width)`` of ``x`` for a given statistic."""
        with trying(self, candidate):
            return self.quantizer.try_quantize(x)

    @abstractmethod
    def search_from(self, start: Tensor, x: Tensor) -> Tensor:
        """Return the best candidate; called without autograd."""
        raise NotImplementedError(f"{type(self).__name__} does not search.")

    def run_on_host(self, x: Tensor, start: Tensor) -> Tensor:
        """Return the best candidate and keep it."""
        self.found = self.search_from(start, x)
        return self.found

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return the best candidate, a constant: 0-d, or the view without the reduced dimension."""
        if x.numel() == 0:
            raise ValueError(
                f"input of shape {tuple(x.shape)}: expected at least one element, to find the "
                "statistic with which it is quantized best."
            )
        x = x.detach() if x.is_floating_point() else x.to(torch.get_default_dtype())
        trial = current_trial()
        if trial is None:
            is_traced = torch.compiler.is_compiling()
            return (self.call_on_host if is_traced else self.run_on_host)(x, self.start(x))
        if trial.statistic is self:
            return trial.candidate
        return self._held_while_other_searches(x)

    def _held_while_other_searches(self, x: Tensor) -> Tensor:
        """Return the last result, be it of an earlier batch; the start where none fits."""
        start = self.start(x)
        if self.found is None or self.found.shape != start.shape:
            return start
        return self.found.to(start.device)


def mse_grid_search(xl: Tensor, xr: Tensor, loss_fn: Loss, num_iter: int) -> tuple[Tensor, Tensor]:
    """Best of evenly spaced candidates; the first one of equal loss.

    Args:
        xl: smallest candidates.
        xr: largest candidates, of the same shape.
        loss_fn: candidates -> loss of each, of the same shape.
        num_iter: number of candidates, at least 2.

    Returns:
        Best candidates and their losses.

    Raises:
        ValueError: for less than 2 candidates.

    Example:
        >>> low, high = torch.tensor([0.0, 0.0]), torch.tensor([4.0, 8.0])
        >>> mse_grid_search(low, high, lambda x: (x - 3.0) ** 2, 5)
        (tensor([3., 2.]), tensor([0., 1.]))
    """
    _check_iterations(num_iter)
    best = xl
    best_loss = loss_fn(best)
    fractions = torch.linspace(0, 1, num_iter, device=xl.device)
    for index in range(1, num_iter):
        candidate = xl + fractions[index] * (xr - xl)
        loss = loss_fn(candidate)
        is_better = loss < best_loss
        best = torch.where(is_better, candidate, best)
        best_loss = torch.where(is_better, loss, best_loss)
    return best, best_loss


def mse_fib_search(xl: Tensor, xr: Tensor, loss_fn: Loss, num_iter: int) -> tuple[Tensor, Tensor]:
    """Best of candidates that close in on a minimum: the Fibonacci search.

    Exact up to ``(xr - xl) / fibonacci(num_iter)`` where the loss has a single minimum.

    Args:
        xl: smallest candidates.
        xr: largest candidates, of the same shape.
        loss_fn: candidates -> loss of each, of the same shape.
        num_iter: number of pairs of candidates plus one, at least 2.

    Returns:
        Best candidates and their losses.

    Raises:
        ValueError: for less than 2 iterations.

    Example:
        >>> low, high = torch.tensor([0.0, 0.0]), torch.tensor([5.0, 8.0])
        >>> [best.round() for best in mse_fib_search(low, high, lambda x: (x - 3.0) ** 2, 12)]
        [tensor([3., 3.]), tensor([0., 0.])]

    Reference: Kiefer, "Sequential minimax search for a maximum", 1953.
    """
    _check_iterations(num_iter)
    fibonacci = [0, 1]
    while len(fibonacci) <= num_iter:
        fibonacci.append(fibonacci[-2] + fibonacci[-1])

    offset = fibonacci[-3] / fibonacci[-1] * (xr - xl)
    left, right = xl + offset, xr - offset
    left_loss, right_loss = loss_fn(left), loss_fn(right)
    for level in range(num_iter, 2, -1):
        is_tie, width = left_loss == right_loss, xr - xl
        moves = (left_loss < right_loss) | (left_loss > right_loss)
        xl = torch.where(left_loss >= right_loss, left, xl)
        xr = torch.where(left_loss <= right_loss, right, xr)
        # The numbers are such that one of the pair stays, unless both ends have moved.
        offset = fibonacci[level - 2] / fibonacci[level] * torch.where(is_tie, xr - xl, width)
        from_left, from_right = xl + offset, xr - offset
        left = torch.where(moves, from_right, from_left)
        right = torch.where(moves, from_left, from_right)
        left_loss, right_loss = loss_fn(left), loss_fn(right)
    is_left = left_loss <= right_loss
    return torch.where(is_left, left, right), torch.where(is_left, left_loss, right_loss)


def _check_iterations(num_iter: int) -> None:
    if not isinstance(num_iter, int) or isinstance(num_iter, bool) or num_iter < 2:
        raise ValueError(f"num_iter={num_iter!r}: expected an int >= 2.")
