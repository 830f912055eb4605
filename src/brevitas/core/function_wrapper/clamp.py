"""Clamps as modules; their gradient is zero where they limit.

Layer: core (L3). Clamps with straight-through gradients are in `ops_ste`.
"""

from __future__ import annotations

from math import inf, nan

import torch
from torch import Tensor, nn

from brevitas.core.utils import StatelessBuffer
from brevitas.function.ops import max_float, tensor_clamp
from brevitas.ops.minifloat import overflow_to

__all__ = ["ClampMin", "FloatClamp", "ScalarClamp", "TensorClamp"]

Codes = tuple[str, ...] | None


class TensorClamp(nn.Module):
    """Clamp to tensors; where a bound is active, the gradient goes to the bound.

    Example:
        >>> TensorClamp()(torch.tensor([-3., 3.]), torch.tensor(-1.), torch.tensor(2.))
        tensor([-1.,  2.])
    """

    def forward(self, x: Tensor, min_val: Tensor, max_val: Tensor) -> Tensor:
        """Return `x` limited to `[min_val, max_val]`, which broadcast to `x`."""
        return tensor_clamp(x, min_val, max_val)


class ScalarClamp(nn.Module):
    """Clamp to two numbers.

    Args:
        min_val: Lower bound.
        max_val: Upper bound.

    Example:
        >>> ScalarClamp(-1., 2.)(torch.tensor([-3., 3.]))
        tensor([-1.,  2.])
    """

    def __init__(self, min_val: float, max_val: float) -> None:
        super().__init__()
        self.min_val = min_val
        self.max_val = max_val

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` limited to `[min_val, max_val]`."""
        return torch.clamp(x, self.min_val, self.max_val)


class ClampMin(nn.Module):
    """Clamp from below to a number.

    Args:
        min_val: Lower bound.

    Example:
        >>> ClampMin(-1.)(torch.tensor([-3., 3.]))
        tensor([-1.,  3.])
    """

    def __init__(self, min_val: float) -> None:
        super().__init__()
        self.min_val = min_val

    def forward(self, x: Tensor) -> Tensor:
        """Return the larger of `x` and `min_val`."""
        return torch.clamp_min(x, self.min_val)


class FloatClamp(nn.Module):
    """Limit rounded values to the range of a minifloat format.

    `y = clamp(x, -limit, limit)` with `limit = max_mantissa * 2**(2**e - 1 - bias)`, or
    `max_available_float` where that is smaller; the lower limit of an unsigned format is 0. A
    format that does not saturate has infinity beyond its limits, or else NaN.

    Args:
        tensor_clamp_impl: `(x, lower, upper) -> clamped`.
        signed: Whether the format has negative numbers.
        inf_values: Mantissas of the highest exponent that stand for infinity, None for none.
        nan_values: Mantissas of the highest exponent that stand for NaN, None for none.
        max_available_float: Largest finite value, where codes are given up for infinity and NaN.
        saturating: Whether values beyond the limits become the limits.
        device: Device of `max_available_float`.
        dtype: Type of `max_available_float`.

    Raises:
        ValueError: If values beyond the limits would have nothing to become.

    Example:
        >>> clamp = FloatClamp(TensorClamp(), True, nan_values=("111",), max_available_float=448.0)
        >>> e4m3 = torch.tensor(4.), torch.tensor(1.875), torch.tensor(7.)
        >>> clamp(torch.tensor([480., 1.]), *e4m3)[0]
        tensor([448.,   1.])

    Reference:
        OCP 8-bit Floating Point Specification 1.0, section 5.2 (saturation).
    """

    max_available_float: nn.Module | None

    def __init__(
        self,
        tensor_clamp_impl: nn.Module,
        signed: bool,
        inf_values: Codes = None,
        nan_values: Codes = None,
        max_available_float: Tensor | float | None = None,
        saturating: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not saturating and not inf_values and not nan_values:
            raise ValueError(
                f"saturating={saturating!r}, inf_values={inf_values!r}, nan_values={nan_values!r}: "
                "expected a format with codes for infinity or NaN, which values beyond its range "
                "become; or saturating=True."
            )
        self.tensor_clamp_impl = tensor_clamp_impl
        self.signed = signed
        self.inf_values = inf_values
        self.nan_values = nan_values
        self.saturating = saturating
        self.max_available_float = as_limit(max_available_float, device, dtype)

    @property
    def above(self) -> float | None:
        """What values above the upper limit become; None for the limit."""
        if self.saturating:
            return None
        return inf if self.inf_values else nan

    @property
    def below(self) -> float | None:
        """What values below the lower limit become; None for the limit."""
        if self.saturating or self.signed:
            return None if self.above is None else -self.above
        return nan if self.nan_values else None  # no unsigned format has minus infinity

    def limits(
        self, exponent_bit_width: Tensor, max_mantissa: Tensor, exponent_bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the smallest and the largest finite value, both 0-d."""
        upper = available_float(
            exponent_bit_width, max_mantissa, exponent_bias, self.max_available_float
        )
        return (-upper if self.signed else torch.zeros_like(upper)), upper

    def inf_nan_clamp(
        self, x: Tensor, inf_mask: Tensor, p_max_val_mask: Tensor, n_max_val_mask: Tensor
    ) -> Tensor:
        """Write infinity or NaN where values were beyond the limits.

        Args:
            x: Limited values.
            inf_mask: Where they were infinite, for a format without infinity.
            p_max_val_mask: Where they were above the upper limit.
            n_max_val_mask: Where they were below the lower limit.
        """
        if not self.inf_values:
            x = overflow_to(x, inf_mask, nan)
        return overflow_to(overflow_to(x, p_max_val_mask, self.above), n_max_val_mask, self.below)

    def saturating_clamp(self, x: Tensor, max_value: Tensor, min_value: Tensor) -> Tensor:
        """Return `x` limited to `[min_value, max_value]`."""
        return self.tensor_clamp_impl(x, min_value, max_value)

    def forward(
        self,
        x: Tensor,
        exponent_bit_width: Tensor,
        pre_compute_max_mantissa: Tensor,
        exponent_bias: Tensor,
    ) -> tuple[Tensor, bool, Codes, Codes]:
        """Return `(limited x, saturating, inf_values, nan_values)`.

        Args:
            x: Rounded values in units of the scale.
            exponent_bit_width: Bits of the exponent.
            pre_compute_max_mantissa: Largest significand, in [1, 2).
            exponent_bias: Offset subtracted from the exponent code.
        """
        lower, upper = self.limits(exponent_bit_width, pre_compute_max_mantissa, exponent_bias)
        # Looked at before, since the clamp may write to what it is given.
        masks = None if self.saturating else (x.isinf(), x > upper, x < lower)
        x = self.saturating_clamp(x, upper, lower)
        if masks is not None:
            x = self.inf_nan_clamp(x, *masks)
        return x, self.saturating, self.inf_values, self.nan_values


def as_limit(
    max_available_float: Tensor | float | None,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> StatelessBuffer | None:
    """Return a constant that leaves no key in the state dict; None for none.

    Args:
        max_available_float: Largest finite value of a format, a number or a 0-d tensor.
        device: Device of the constant.
        dtype: Type of the constant, PyTorch's default type by default.

    Example:
        >>> as_limit(448.0, None, None)()
        tensor(448.)
    """
    if max_available_float is None:
        return None
    dtype, number = dtype or torch.get_default_dtype(), float(max_available_float)
    is_held = number <= torch.finfo(dtype).max
    return StatelessBuffer(number if is_held else inf, dtype, device)


def available_float(
    exponent_bit_width: Tensor,
    max_mantissa: Tensor,
    exponent_bias: Tensor,
    max_available_float: nn.Module | None,
) -> Tensor:
    """Return the largest finite value of a format, 0-d.

    Args:
        exponent_bit_width: Bits of the exponent.
        max_mantissa: Largest significand, in [1, 2).
        exponent_bias: Offset subtracted from the exponent code.
        max_available_float: A smaller one, where codes are given up for infinity and NaN.

    Example:
        >>> e4m3 = torch.tensor(4.), torch.tensor(1.875), torch.tensor(7.)
        >>> available_float(*e4m3, None), available_float(*e4m3, as_limit(448.0, None, None))
        (tensor(480.), tensor(448.))
    """
    largest = max_float(exponent_bit_width, max_mantissa, exponent_bias)
    if max_available_float is None:
        return largest
    available = max_available_float()
    return torch.where(largest > available, available.to(largest.dtype), largest)
