"""Bit widths that are learned.

Layer: core (L3).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from brevitas.core._state import LearnedValueModule
from brevitas.core.bit_width._validation import check_bit_width
from brevitas.core.restrict_val import IntRestrictValue, _RestrictClampValue
from brevitas.function.ops_ste import abs_binary_sign_grad

__all__ = [
    "MIN_INT_BIT_WIDTH",
    "NON_ZERO_EPSILON",
    "REMOVE_ZERO_BIT_WIDTH",
    "BitWidthParameter",
    "RemoveBitwidthParameter",
]

MIN_INT_BIT_WIDTH = 2
NON_ZERO_EPSILON = 1e-6
REMOVE_ZERO_BIT_WIDTH = 0.1


class _LearnedBits(LearnedValueModule):
    """Base: one 0-d parameter, whose initial value may win over that of a checkpoint."""

    override_pretrained: bool

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        if not self.override_pretrained:
            super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
            return
        for name in self.optional_keys:
            state_dict.pop(prefix + name, None)


class BitWidthParameter(_LearnedBits):
    """A learned number of bits, `y = restrict(|bit_width_offset| + bit_width_base)`.

    The base is the stored value of the smallest bit width, the offset the learned distance from
    it. The gradient of the offset is its sign (1 at zero).

    Args:
        bit_width: Initial number of bits.
        min_bit_width: Smallest number of bits.
        restrict_bit_width_impl: Restriction of the result, integers by default.
        bit_width_offset_min_val: Smallest result, below which it is clamped.
        bit_width_offset_max_val: Largest result, above which it is clamped.
        override_pretrained_bit_width: Keep the initial value when a state dict is loaded.
        dtype: Type of the parameter, PyTorch's default type by default.
        device: Device of the parameter.

    Raises:
        ValueError: If `bit_width` is no integer of at least `min_bit_width`.
        TypeError: If `bit_width` is no number.

    Example:
        >>> learned = BitWidthParameter(4)
        >>> learned.bit_width_offset.item(), learned().item()
        (2.0, 4.0)
    """

    optional_keys = ("bit_width_offset",)

    def __init__(
        self,
        bit_width: int,
        min_bit_width: int = MIN_INT_BIT_WIDTH,
        restrict_bit_width_impl: nn.Module | None = None,
        bit_width_offset_min_val: int | None = None,
        bit_width_offset_max_val: int | None = None,
        override_pretrained_bit_width: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        smallest = check_bit_width(min_bit_width, "min_bit_width", 1)
        initial = check_bit_width(bit_width, "bit_width", smallest, " for a learned bit width")
        restrict: Any = restrict_bit_width_impl
        if restrict is None:
            restrict = IntRestrictValue()
        self.restrict_clamp_bit_width_impl = _RestrictClampValue(
            bit_width_offset_min_val, bit_width_offset_max_val, restrict
        )
        self.bit_width_base = float(restrict.restrict_init_float(smallest))
        offset = restrict.restrict_init_float(initial) - self.bit_width_base
        dtype = dtype or torch.get_default_dtype()
        self.bit_width_offset = nn.Parameter(torch.tensor(offset, dtype=dtype, device=device))
        self.override_pretrained = override_pretrained_bit_width

    def forward(self) -> Tensor:
        """Return the number of bits, a 0-d float tensor."""
        bit_width = abs_binary_sign_grad(self.bit_width_offset) + self.bit_width_base
        return self.restrict_clamp_bit_width_impl(bit_width)


class RemoveBitwidthParameter(_LearnedBits):
    """A learned number of bits to remove, `y = 1 / (epsilon + |bit_width_coeff|)`.

    Args:
        bit_width_to_remove: Initial number of bits, at least 0.
        override_pretrained_bit_width: Keep the initial value when a state dict is loaded.
        non_zero_epsilon: Keeps the denominator away from zero.
        remove_zero_bit_width: Small number that stands for zero bits, which has no inverse.
        dtype: Type of the parameter, PyTorch's default type by default.
        device: Device of the parameter.

    Raises:
        ValueError: If `bit_width_to_remove` is negative.

    Example:
        >>> RemoveBitwidthParameter(4)().round().item()
        4.0
    """

    optional_keys = ("bit_width_coeff",)

    def __init__(
        self,
        bit_width_to_remove: int,
        override_pretrained_bit_width: bool = False,
        non_zero_epsilon: float = NON_ZERO_EPSILON,
        remove_zero_bit_width: float = REMOVE_ZERO_BIT_WIDTH,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        if not bit_width_to_remove >= 0:
            raise ValueError(f"bit_width_to_remove={bit_width_to_remove!r}: expected an int >= 0.")
        initial = 1.0 / (bit_width_to_remove or remove_zero_bit_width)
        dtype = dtype or torch.get_default_dtype()
        self.bit_width_coeff = nn.Parameter(torch.tensor(initial, dtype=dtype, device=device))
        self.non_zero_epsilon = non_zero_epsilon
        self.override_pretrained = override_pretrained_bit_width

    def forward(self) -> Tensor:
        """Return the number of bits to remove, a 0-d float tensor."""
        return 1.0 / (self.non_zero_epsilon + torch.abs(self.bit_width_coeff))
