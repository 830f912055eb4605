"""The statistic with which quantization has the least squared error.

Layer: core (L3).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from brevitas.core.stats._search import (
    CandidateQuantizer,
    SearchedStatistic,
    mse_fib_search,
    mse_grid_search,
)
from brevitas.utils.torch_utils import widened

__all__ = ["MSE", "MSEUniformStepBase"]

Search = Callable[[Tensor, Tensor, Callable[[Tensor], Tensor], int], tuple[Tensor, Tensor]]

_SEARCHES: dict[str, Search] = {"fibonacci": mse_fib_search, "grid": mse_grid_search}


class MSEUniformStepBase(nn.Module):
    """Other end of the candidates: ``base = init / mse_iters``, one even step from zero.

    Args:
        mse_iters: number of candidates.

    Example:
        >>> MSEUniformStepBase(mse_iters=20)(torch.tensor(2.0))
        tensor(0.1000)
    """

    def __init__(self, mse_iters: int) -> None:
        super().__init__()
        self.mse_iters = mse_iters

    def forward(self, init: Tensor) -> Tensor:
        """Return the candidate nearest to zero, of the shape of ``init``."""
        return init / self.mse_iters


class MSE(SearchedStatistic):
    """Candidate with the least squared error: ``argmin_s sum((x - quantize(x, s)) ** 2)``.

    Candidates lie between ``init = mse_init_op(x)`` and ``mse_base_op(init)``; each channel, or
    group, has its own.

    Args:
        proxy_module: proxy of the quantizer that the statistic is part of.
        mse_init_op: statistic at one end of the candidates, e.g. ``AbsMax``.
        inner_stats_input_view_shape_impl: view of ``x`` over which the error is summed.
        mse_iters: number of candidates.
        mse_base_op: ``init`` -> other end of the candidates, e.g. ``MSEUniformStepBase``.
        stats_reduce_dim: dimension of the view to reduce, or None for all of them.
        mse_search_method: ``"grid"`` tries all candidates, ``"fibonacci"`` closes in on a minimum.
        bipolar_search: search the negated candidates, too, with half of the tries each.

    Raises:
        ValueError: for an unknown method, or less than 2 tries (4 where bipolar).
        TypeError: for a proxy that cannot quantize candidates.

    Example:
        >>> from brevitas.nn import QuantLinear
        >>> from brevitas.quant.scaled_int import Int8WeightPerTensorFloatMSE
        >>> layer = QuantLinear(3, 1, weight_quant=Int8WeightPerTensorFloatMSE, weight_bit_width=3)
        >>> layer.weight.data = torch.tensor([[0.5, 1.0, 2.0]])
        >>> round(3 * layer.quant_weight().scale.item(), 4)  # 18 / 20 of the largest magnitude
        1.8
    """

    def __init__(
        self,
        proxy_module: CandidateQuantizer,
        mse_init_op: nn.Module,
        inner_stats_input_view_shape_impl: nn.Module,
        mse_iters: int,
        mse_base_op: nn.Module,
        stats_reduce_dim: int | None = None,
        mse_search_method: str = "fibonacci",
        bipolar_search: bool = False,
    ) -> None:
        super().__init__(
            proxy_module,
            mse_init_op,
            inner_stats_input_view_shape_impl,
            stats_reduce_dim,
        )
        if mse_search_method not in _SEARCHES:
            accepted = ", ".join(map(repr, _SEARCHES))
            raise ValueError(
                f"mse_search_method={mse_search_method!r}: expected one of {accepted}."
            )
        fewest = 4 if bipolar_search else 2
        if not isinstance(mse_iters, int) or isinstance(mse_iters, bool) or mse_iters < fewest:
            raise ValueError(f"mse_iters={mse_iters!r}: expected an int >= {fewest}.")
        self.mse_base_op = mse_base_op
        self.mse_iters = mse_iters
        self.mse_search_method = mse_search_method
        self.bipolar_search = bipolar_search

    def mse_loss_fn(self, x: Tensor, quant_value: Tensor) -> Tensor:
        """Return the squared error of a quantized ``x``: 0-d, or one value for each channel."""
        shown = self.quantizer.as_quantized(x)
        error = self.input_view_shape_impl(widened(shown) - widened(quant_value)).square()
        return error.sum() if self.stats_reduce_dim is None else error.sum(self.stats_reduce_dim)

    def evaluate_loss(self, x: Tensor, candidate: Tensor) -> Tensor:
        """Return the squared error of ``x`` for a given statistic, of the statistic's shape."""
        value = self.quantize(x, candidate)[0]
        return self.mse_loss_fn(x, value).reshape(candidate.shape)

    def mse_search(self, x: Tensor) -> Tensor:
        """Return the candidate of least squared error."""
        return self.search_from(self.start(x), x)

    def search_from(self, start: Tensor, x: Tensor) -> Tensor:
        """Return the candidate of least squared error, from ``start`` to its base."""
        base = self.mse_base_op(start)
        low, high = torch.minimum(start, base), torch.maximum(start, base)
        search = _SEARCHES[self.mse_search_method]

        def loss(candidate: Tensor) -> Tensor:
            return self.evaluate_loss(x, candidate)

        if not self.bipolar_search:
            return search(low, high, loss, self.mse_iters)[0]
        best, best_loss = search(low, high, loss, self.mse_iters // 2)
        negative, negative_loss = search(-high, -low, loss, self.mse_iters // 2)
        return torch.where(negative_loss < best_loss, negative, best)
