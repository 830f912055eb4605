"""The real value that the largest minifloat maps to, and its rounding. Layer: core (L3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from brevitas.core.function_wrapper.clamp import Codes, as_limit, available_float
from brevitas.function.ops import calculate_midmax_bias
from brevitas.function.ops_ste import floor_ste

__all__ = ["FloatScaling", "RoundMidMaxSte"]


class FloatScaling(nn.Module):
    """Largest finite value of a minifloat format: the threshold by which a statistic is divided.

    ``max_mantissa * 2**(2**e - 1 - bias)``, or ``max_available_float`` where that is smaller.

    Args:
        max_available_float: largest finite value, where codes are given up for infinity and NaN.
        inf_values: mantissas of the highest exponent that stand for infinity, None for none.
        nan_values: mantissas of the highest exponent that stand for NaN, None for none.
        saturating: whether values beyond the range become its limits.
        device: device of ``max_available_float``.
        dtype: dtype of ``max_available_float``.

    Example:
        >>> e4m3 = torch.tensor(4.0), torch.tensor(1.875), torch.tensor(7.0)
        >>> FloatScaling()(*e4m3), FloatScaling(448.0, nan_values=("111",))(*e4m3)
        (tensor(480.), tensor(448.))
    """

    max_available_float: nn.Module | None

    def __init__(
        self,
        max_available_float: Tensor | float | None = None,
        inf_values: Codes = None,
        nan_values: Codes = None,
        saturating: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.inf_values = inf_values
        self.nan_values = nan_values
        self.saturating = saturating
        self.max_available_float = as_limit(max_available_float, device, dtype)

    def forward(
        self, exponent_bit_width: Tensor, pre_compute_max_mantissa: Tensor, exponent_bias: Tensor
    ) -> Tensor:
        """Return the largest finite value, a 0-d tensor."""
        return available_float(
            exponent_bit_width, pre_compute_max_mantissa, exponent_bias, self.max_available_float
        )


class RoundMidMaxSte(nn.Module):
    """Round an exponent as a minifloat would round the power: up from halfway to the next power.

    ``y = floor(x + 1 - bias)`` where ``bias``, in octaves, is how far the midpoint between the
    largest significand and the next power of two lies above a power. The gradient is 1.

    Args:
        mantissa_bit_width_impl: ``() -> m``, stored bits of the mantissa.
        midmax_mantissa_bit_bias: bits by which the mantissa counts as shorter.

    Example:
        >>> from brevitas.core.bit_width import BitWidthConst
        >>> RoundMidMaxSte(BitWidthConst(3))(torch.tensor([1.9, 1.96]))
        tensor([1., 2.])
    """

    def __init__(
        self, mantissa_bit_width_impl: nn.Module, midmax_mantissa_bit_bias: float = 0.0
    ) -> None:
        super().__init__()
        self.mantissa_bit_width_impl: Any = mantissa_bit_width_impl
        self.midmax_mantissa_bit_bias = midmax_mantissa_bit_bias

    def forward(self, x: Tensor) -> Tensor:
        """Return the rounded exponents, of the shape of ``x``."""
        bias = calculate_midmax_bias(self.mantissa_bit_width_impl(), self.midmax_mantissa_bit_bias)
        return floor_ste(x + (1.0 - bias))
