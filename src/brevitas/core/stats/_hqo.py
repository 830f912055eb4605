"""Scales and zero points by half-quadratic optimization: less weight on outliers than on the rest.

Layer: core (L3).

The error is split in two, ``x - quantize(x) = outliers + rest``. In turns, a shrinkage gives the
outliers, and a closed form the scale, or the zero point, of the rest.

Reference: Badri, Shaji, "Half-Quadratic Quantization of Large Machine Learning Models", 2023.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from brevitas.core.stats._search import CandidateQuantizer, SearchedStatistic
from brevitas.core.stats._selection import masked_median
from brevitas.function.ops import min_int
from brevitas.utils.torch_utils import widened

__all__ = ["HalfQuadraticOptimizerScale", "HalfQuadraticOptimizerZeroPoint", "shrink_lp_op"]


def shrink_lp_op(x: Tensor, beta: float, lp_norm: float) -> Tensor:
    """Shrinkage of the l_p norm: ``sign(x) * max(|x| - |x| ** (p - 1) / beta, 0)``.

    Args:
        x: any floating-point tensor.
        beta: how much of ``x`` stays; more for larger numbers.
        lp_norm: the ``p`` of the norm; 1 gives soft thresholding.

    Returns:
        Tensor of the shape of ``x``.

    Example:
        >>> shrink_lp_op(torch.tensor([-3.0, 0.5, 4.0]), beta=1.0, lp_norm=1.0)
        tensor([-2., 0., 3.])
    """
    magnitude = torch.abs(x)
    # Zero to a negative power is infinite, and zero all the same after the shrinkage.
    return torch.sign(x) * torch.relu(magnitude - magnitude.pow(lp_norm - 1) / beta)


def _steps_between_checks(x: Tensor) -> int:
    """Steps taken before the host asks for the error: it would wait for an accelerator."""
    return 1 if x.device.type == "cpu" else 16


class _Quantized(NamedTuple):
    """A tensor without its outliers, and how it was quantized, in the quantized shape."""

    rest: Tensor
    integers: Tensor
    scale: Tensor
    zero_point: Tensor
    bit_width: Tensor


class _HalfQuadraticOptimizer(SearchedStatistic):
    """Base: alternates between outliers and parameter as long as the mean error shrinks."""

    beta: float
    kappa: float
    lp_norm: float
    hqo_iters: int
    keepdim: bool

    def _set_hyperparameters(
        self, beta: float, kappa: float, lp_norm: float, iters: int, keepdim: bool
    ) -> None:
        for name, number in (("beta", beta), ("kappa", kappa), ("lp_norm", lp_norm)):
            if not number > 0:
                raise ValueError(f"hqo_{name}={number!r}: expected a number > 0.")
        if not isinstance(iters, int) or isinstance(iters, bool) or iters < 1:
            raise ValueError(f"hqo_iters={iters!r}: expected an int >= 1.")
        self.beta, self.kappa, self.lp_norm = beta, kappa, lp_norm
        self.hqo_iters, self.keepdim = iters, keepdim

    @abstractmethod
    def solve(self, quantized: _Quantized) -> Tensor:
        """Return the statistic that fits best, without the outliers."""
        raise NotImplementedError(f"{type(self).__name__} does not solve for a statistic.")

    def parameter_search(self, xl: Tensor, x: Tensor) -> Tensor:
        """Return the best statistic that is found from the start ``xl``."""
        if x.is_meta:
            return xl
        best = candidate = xl
        beta, checked = self.beta, _steps_between_checks(x)
        shown = widened(self.quantizer.as_quantized(x))
        best_error = shown.new_full((), math.inf)
        improves = torch.ones((), dtype=torch.bool, device=x.device)
        for step in range(self.hqo_iters):
            value, scale, zero_point, bit_width, *_ = self.quantize(x, candidate)
            value = widened(value)
            error = shown - value
            mean_error = torch.abs(error).mean()
            improves = improves & (mean_error < best_error)
            if step % checked == 0 and not improves:
                break
            best = torch.where(improves, candidate, best)
            best_error = torch.where(improves, mean_error, best_error)
            integers = torch.round(value / scale + zero_point)
            rest = shown - shrink_lp_op(error, beta, self.lp_norm)
            solution = self.solve(_Quantized(rest, integers, scale, zero_point, bit_width))
            solution = solution.reshape(xl.shape)
            # A channel of zeros has no solution, and needs none.
            candidate = torch.where(torch.isnan(solution), candidate, solution)
            beta *= self.kappa
        return best

    def optimize(self, x: Tensor) -> Tensor:
        """Return the best statistic that is found from that of the initial operation."""
        return self.parameter_search(self.start(x), x)

    def search_from(self, start: Tensor, x: Tensor) -> Tensor:
        """Return the best statistic that is found from ``start``."""
        return self.parameter_search(start, x)


class HalfQuadraticOptimizerScale(_HalfQuadraticOptimizer):
    """Scale by half-quadratic optimization: ``scale = median((x - outliers) / integers)``.

    Args:
        proxy_module: proxy of the quantizer that the statistic is part of.
        hqo_init_op_scale: statistic from which the search starts, e.g. ``AbsMax``.
        keepdim: keep the reduced dimension with size one.
        inner_stats_input_view_shape_impl: view of ``x`` that is reduced.
        scaling_min_val: smallest scale; None for none.
        stats_reduce_dim: dimension of the view to reduce, or None for all of them.
        int_scaling_impl: ``bit_width -> threshold``, what the scale is multiplied by; None for 1.
        bit_width_impl: ``() -> bit width``.
        hqo_beta_scale: weight of outliers in the beginning.
        hqo_kappa_scale: factor on it in each iteration.
        hqo_lp_norm_scale: the norm of the error, below 1 for less weight on outliers.
        hqo_iters_scale: largest number of iterations.

    Raises:
        ValueError: for hyperparameters that are not positive.
        TypeError: for a proxy that cannot quantize candidates.
    """

    def __init__(
        self,
        proxy_module: CandidateQuantizer,
        hqo_init_op_scale: nn.Module,
        keepdim: bool,
        inner_stats_input_view_shape_impl: nn.Module,
        scaling_min_val: float | None = None,
        stats_reduce_dim: int | None = None,
        int_scaling_impl: nn.Module | None = None,
        bit_width_impl: nn.Module | None = None,
        hqo_beta_scale: float = 1e5,
        hqo_kappa_scale: float = 1.01,
        hqo_lp_norm_scale: float = 0.7,
        hqo_iters_scale: int = 1000,
    ) -> None:
        super().__init__(
            proxy_module,
            hqo_init_op_scale,
            inner_stats_input_view_shape_impl,
            stats_reduce_dim,
        )
        self._set_hyperparameters(
            hqo_beta_scale, hqo_kappa_scale, hqo_lp_norm_scale, hqo_iters_scale, keepdim
        )
        if (int_scaling_impl is None) is not (bit_width_impl is None):
            raise ValueError(
                f"int_scaling_impl={int_scaling_impl!r}, bit_width_impl={bit_width_impl!r}: "
                "expected both or none."
            )
        self.scaling_min_val = scaling_min_val
        self.int_scaling_impl: Any = int_scaling_impl
        self.msb_clamp_bit_width_impl: Any = bit_width_impl

    def solve(self, quantized: _Quantized) -> Tensor:
        """Return the median of the scales at which single elements would be exact."""
        view = self.input_view_shape_impl
        steps = quantized.integers - quantized.zero_point
        ratio, counts = view(quantized.rest / steps), view(steps != 0)
        scale = masked_median(ratio, counts, self.stats_reduce_dim, self.keepdim)
        if self.scaling_min_val is not None:
            scale = scale.clamp_min(self.scaling_min_val)
        if self.int_scaling_impl is None:
            return scale
        return scale * self.int_scaling_impl(self.msb_clamp_bit_width_impl())


class HalfQuadraticOptimizerZeroPoint(_HalfQuadraticOptimizer):
    """Zero point by half-quadratic optimization: ``mean(integers - (x - outliers) / scale)``.

    The statistic is the real value of the smallest integer, ``(min_int - zero_point) * scale``.

    Args:
        proxy_module: proxy of the quantizer that the statistic is part of.
        keepdim: keep the reduced dimension with size one.
        hqo_init_op_zp: statistic from which the search starts, e.g. ``NegativeMinOrZero``.
        inner_stats_input_view_shape_impl: view of ``x`` that is reduced.
        stats_reduce_dim: dimension of the view to reduce, or None for all of them.
        hqo_beta_zp: weight of outliers in the beginning.
        hqo_kappa_zp: factor on it in each iteration.
        hqo_lp_norm_zp: the norm of the error, below 1 for less weight on outliers.
        hqo_iters_zp: largest number of iterations.

    Raises:
        ValueError: for hyperparameters that are not positive.
        TypeError: for a proxy that cannot quantize candidates.
    """

    def __init__(
        self,
        proxy_module: CandidateQuantizer,
        keepdim: bool,
        hqo_init_op_zp: nn.Module,
        inner_stats_input_view_shape_impl: nn.Module,
        stats_reduce_dim: int | None = None,
        hqo_beta_zp: float = 1.0,
        hqo_kappa_zp: float = 1.01,
        hqo_lp_norm_zp: float = 0.5,
        hqo_iters_zp: int = 1000,
    ) -> None:
        super().__init__(
            proxy_module,
            hqo_init_op_zp,
            inner_stats_input_view_shape_impl,
            stats_reduce_dim,
        )
        self._set_hyperparameters(hqo_beta_zp, hqo_kappa_zp, hqo_lp_norm_zp, hqo_iters_zp, keepdim)

    def solve(self, quantized: _Quantized) -> Tensor:
        """Return the mean real value of the smallest integer."""
        signed, narrow = bool(self.quantizer.is_signed), bool(self.quantizer.is_narrow_range)
        smallest = min_int(signed, narrow, quantized.bit_width)
        steps = quantized.integers - smallest
        offsets = self.input_view_shape_impl(quantized.rest - steps * quantized.scale)
        if self.stats_reduce_dim is None:
            return offsets.mean()
        return offsets.mean(self.stats_reduce_dim, keepdim=self.keepdim)
