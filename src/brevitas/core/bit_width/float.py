"""What a minifloat format is made of besides bit widths: exponent bias and largest significand.

Layer: core (L3).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from brevitas.core.bit_width._validation import check_bit_width
from brevitas.core.bit_width.const import BitWidthConst
from brevitas.core.utils import StatelessBuffer
from brevitas.function.ops import compute_max_mantissa

__all__ = [
    "ComputeExponentBias",
    "ComputeMaxMantissa",
    "MantissaBitWidthConst",
    "StaticExponentBias",
    "StaticMaxMantissa",
]


class MantissaBitWidthConst(BitWidthConst):
    """A constant number of stored mantissa bits, which may be none: powers of two.

    Args:
        bit_width: Number of bits, at least 0.
        dtype: Type of the result, PyTorch's default type by default.
        device: Device of the result.

    Raises:
        ValueError: If `bit_width` is no integer of at least 0.
        TypeError: If `bit_width` is no number.

    Example:
        >>> MantissaBitWidthConst(0)()
        tensor(0.)
    """

    def __init__(
        self,
        bit_width: int,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        nn.Module.__init__(self)
        self.number = check_bit_width(bit_width, "mantissa_bit_width", 0)
        dtype = dtype or torch.get_default_dtype()
        self.bit_width = StatelessBuffer(self.number, dtype, device)


class StaticExponentBias(nn.Module):
    """A constant exponent bias that leaves no key in the state dict.

    Args:
        exponent_bias: Offset subtracted from the exponent code.
        device: Device of the result.
        dtype: Type of the result, PyTorch's default type by default.

    Example:
        >>> StaticExponentBias(7)()
        tensor(7.)
    """

    def __init__(
        self,
        exponent_bias: float,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        is_number = isinstance(exponent_bias, (int, float, Tensor))
        if not is_number or isinstance(exponent_bias, bool):
            raise TypeError(f"exponent_bias={exponent_bias!r}: expected a number.")
        dtype = dtype or torch.get_default_dtype()
        self.exponent_bias = StatelessBuffer(float(exponent_bias), dtype, device)

    def forward(self) -> Tensor:
        """Return the exponent bias, a 0-d float tensor."""
        return self.exponent_bias()


class ComputeExponentBias(nn.Module):
    """The exponent bias of IEEE 754 for a bit width that may be learned, `2**(e - 1) - 1`.

    Args:
        exponent_bit_width_impl: `() -> e`, bits of the exponent.

    Example:
        >>> ComputeExponentBias(BitWidthConst(5))()
        tensor(15.)
    """

    def __init__(self, exponent_bit_width_impl: nn.Module) -> None:
        super().__init__()
        self.exponent_bit_width_impl = exponent_bit_width_impl

    def forward(self) -> Tensor:
        """Return the exponent bias, a 0-d float tensor."""
        return torch.pow(2, self.exponent_bit_width_impl() - 1) - 1


class StaticMaxMantissa(nn.Module):
    """Largest significand of a constant mantissa, `2 - 2**(-bit_width)`.

    Args:
        bit_width: Stored bits of the mantissa.
        device: Device of the result.
        dtype: Type of the result, PyTorch's default type by default.

    Example:
        >>> StaticMaxMantissa(3)(torch.tensor(3.))
        tensor(1.8750)
    """

    def __init__(
        self,
        bit_width: float,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        largest = compute_max_mantissa(float(bit_width))
        dtype = dtype or torch.get_default_dtype()
        self.compute_max_mantissa = StatelessBuffer(largest, dtype, device)

    def forward(self, x: Tensor) -> Tensor:
        """Return the significand, a 0-d float tensor; `x` is ignored."""
        return self.compute_max_mantissa()


class ComputeMaxMantissa(nn.Module):
    """Largest significand of a mantissa that may be learned, `2 - 2**(-x)`.

    Args:
        max_mantissa_round_impl: Restriction of the bit width `x` first, none by default.

    Example:
        >>> ComputeMaxMantissa()(torch.tensor(2.))
        tensor(1.7500)
    """

    def __init__(self, max_mantissa_round_impl: nn.Module | None = None) -> None:
        super().__init__()
        self.max_mantissa_round_impl: Any = max_mantissa_round_impl

    def forward(self, x: Tensor) -> Tensor:
        """Return the significand of a mantissa of `x` bits, a 0-d float tensor."""
        if self.max_mantissa_round_impl is not None:
            x = self.max_mantissa_round_impl(x)
        return compute_max_mantissa(x)
