"""The threshold at which the histogram of a tensor loses the least information.

Layer: core (L3).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from brevitas.core.stats._registry import register_stats_implementation
from brevitas.function.ops import max_int
from brevitas.utils.torch_utils import widened

__all__ = ["KLMinimizerThreshold"]


def _smoothed(counts: Tensor, eps: float, inside: Tensor) -> Tensor:
    """Probabilities without zeros inside of a window; `eps` is taken from the bins that have some.

    A bin gives away at most half of what it has.
    """
    empty = inside & (counts == 0)
    filled = inside & ~empty
    taken = eps * empty.sum(-1, keepdim=True) / filled.sum(-1, keepdim=True).clamp_min(1)
    smooth = torch.where(empty, eps, torch.maximum(counts - taken, counts / 2) * inside)
    return smooth / smooth.sum(-1, keepdim=True)


def _histogram(x: Tensor, largest: Tensor, num_bins: int) -> Tensor:
    """Number of elements in each of the bins between `-largest` and `largest`."""
    position = (x / largest + 1.0) * (num_bins / 2)
    bins = torch.nan_to_num(position, 0.0).long().clamp(0, num_bins - 1)
    counts = torch.zeros(num_bins, dtype=torch.int64, device=x.device)
    return counts.scatter_add_(0, bins, torch.ones_like(bins)).to(x.dtype)


@register_stats_implementation()
class KLMinimizerThreshold(nn.Module):
    """Threshold with the least divergence, ``argmin_t KL(p_t || q_t)``, of the whole tensor.

    ``p_t`` is the histogram of ``x`` clipped to ``[-t, t]``. For ``q_t``, the elements between
    ``-t`` and ``t`` are quantized; what falls on an integer is spread evenly over those of its
    bins that hold elements. No gradient passes through.

    Args:
        signed: True for signed integers.
        bit_width_impl: ``() -> bit width``.
        num_bins: number of bins, odd.
        smoothing_eps: count that an empty bin is given.

    Raises:
        ValueError: for a number of bins that is no odd int >= 3, or smoothing that is not positive.

    Example:
        >>> from brevitas.core.bit_width import BitWidthConst
        >>> x = torch.cat([torch.linspace(-1.0, 1.0, 2001), torch.tensor([20.0])])
        >>> threshold = KLMinimizerThreshold(True, BitWidthConst(4))(x)
        >>> 1.0 <= threshold.item() < 1.2
        True

    Reference: Migacz, "8-bit Inference with TensorRT", 2017.
    """

    def __init__(
        self,
        signed: bool,
        bit_width_impl: nn.Module,
        num_bins: int = 1001,
        smoothing_eps: float = 0.0001,
    ) -> None:
        super().__init__()
        is_int = isinstance(num_bins, int) and not isinstance(num_bins, bool)
        if not is_int or num_bins < 3 or num_bins % 2 == 0:
            raise ValueError(f"num_bins={num_bins!r}: expected an odd int >= 3.")
        if not smoothing_eps > 0:
            raise ValueError(f"smoothing_eps={smoothing_eps!r}: expected a number > 0.")
        self.signed = signed
        self.bit_width_impl: Any = bit_width_impl
        self.num_bins = num_bins
        self.smoothing_eps = smoothing_eps

    def smooth_normalize_distribution(self, p: Tensor, eps: float) -> Tensor:
        """Return the probabilities of counts ``p``, where empty bins are given ``eps``."""
        return _smoothed(p, eps, torch.ones_like(p, dtype=torch.bool))

    def _divergences(self, counts: Tensor, levels: Tensor) -> Tensor:
        """Divergence of each window of ``2 * i + 1`` bins in the middle, by ``i``."""
        half = self.num_bins // 2
        offset = torch.arange(-half, half + 1, device=counts.device)
        window = torch.arange(half + 1, device=counts.device).unsqueeze(1)
        inside = offset.abs() <= window
        kept = counts * inside
        # Elements outside of a window count at its ends.
        right = counts[half:].sum() - counts[half:].cumsum(0)
        left = counts[: half + 1].sum() - counts[: half + 1].flip(0).cumsum(0)
        clipped = (
            kept + right.unsqueeze(1) * (offset == window) + left.unsqueeze(1) * (offset == -window)
        )
        integer = torch.round(offset * levels / (window + 0.5)).clamp(-half, half)
        place = integer.long() + half
        held = clipped > 0
        mass = torch.zeros_like(kept).scatter_add_(1, place, kept)
        bins = torch.zeros_like(kept).scatter_add_(1, place, held.to(kept.dtype))
        spread = (mass / bins.clamp_min(1.0)).gather(1, place) * held
        p = _smoothed(clipped, self.smoothing_eps, inside)
        q = _smoothed(spread, self.smoothing_eps, inside)
        ratio = torch.where(inside, p / q, 1.0)
        # A window with fewer bins than integers says nothing; the whole range always counts.
        says = (window.squeeze(1) >= levels) | (window.squeeze(1) == half)
        return torch.where(says, (p * torch.log(ratio)).sum(1), torch.inf)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return the threshold, 0-d."""
        if x.numel() == 0:
            raise ValueError(
                f"input of shape {tuple(x.shape)}: expected at least one element for a histogram."
            )
        x = widened(x.detach()).reshape(-1)
        largest = torch.abs(x).amax()
        counts = _histogram(x, largest, self.num_bins)
        levels = max_int(self.signed, False, self.bit_width_impl()).to(x)
        best = self._divergences(counts, levels).argmin()
        return largest * ((2 * best + 1) / self.num_bins)
