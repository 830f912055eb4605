"""Bit widths that do not change while training.

Layer: core (L3).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from brevitas.core._state import LearnedValueModule
from brevitas.core.bit_width._validation import check_bit_width
from brevitas.core.utils import StatelessBuffer
from brevitas.function.ops_ste import abs_binary_sign_grad, round_ste, tensor_clamp_ste

__all__ = ["BitWidthConst", "BitWidthStatefulConst", "MsbClampBitWidth", "RemovedBitsConst"]

_LEARNED_NOTE = " (2 for a learned bit width)"


class BitWidthConst(nn.Module):
    """A constant number of bits that leaves no key in the state dict.

    `number` is the same constant as a Python integer, readable without touching a device.

    Args:
        bit_width: Number of bits, at least 1.
        dtype: Type of the result, PyTorch's default type by default.
        device: Device of the result.

    Raises:
        ValueError: If `bit_width` is no integer of at least 1.
        TypeError: If `bit_width` is no number.

    Example:
        >>> BitWidthConst(8)()
        tensor(8.)
    """

    def __init__(
        self,
        bit_width: int,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.number = check_bit_width(bit_width, "bit_width", 1, _LEARNED_NOTE)
        dtype = dtype or torch.get_default_dtype()
        self.bit_width = StatelessBuffer(self.number, dtype, device)

    def forward(self) -> Tensor:
        """Return the number of bits, a 0-d float tensor."""
        return self.bit_width()


class BitWidthStatefulConst(LearnedValueModule):
    """A constant number of bits that is saved in and loaded from the state dict.

    A checkpoint without it, such as that of a float model, is loaded as one without learned values.

    Args:
        bit_width: Number of bits, at least 1.
        dtype: Type of the result, PyTorch's default type by default.
        device: Device of the result.

    Raises:
        ValueError: If `bit_width` is no integer of at least 1.
        TypeError: If `bit_width` is no number.

    Example:
        >>> BitWidthStatefulConst(8).state_dict()["bit_width"]
        tensor(8.)
    """

    optional_keys = ("bit_width",)
    bit_width: Tensor

    def __init__(
        self,
        bit_width: int,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        number = check_bit_width(bit_width, "bit_width", 1, _LEARNED_NOTE)
        dtype = dtype or torch.get_default_dtype()
        self.register_buffer("bit_width", torch.tensor(number, dtype=dtype, device=device))

    def forward(self) -> Tensor:
        """Return the number of bits, a 0-d float tensor."""
        return self.bit_width.detach()


class RemovedBitsConst(nn.Module):
    """A constant number of bits to remove, which may be none.

    Args:
        bit_width_to_remove: Number of bits, at least 0.
        dtype: Type of the result, PyTorch's default type by default.
        device: Device of the result.

    Raises:
        ValueError: If `bit_width_to_remove` is no integer of at least 0.
        TypeError: If `bit_width_to_remove` is no number.

    Example:
        >>> RemovedBitsConst(0)()
        tensor(0.)
    """

    def __init__(
        self,
        bit_width_to_remove: int,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        number = check_bit_width(bit_width_to_remove, "bit_width_to_remove", 0)
        self.bit_width = StatelessBuffer(number, dtype or torch.get_default_dtype(), device)

    def forward(self) -> Tensor:
        """Return the number of bits to remove, a 0-d float tensor."""
        return self.bit_width()


class MsbClampBitWidth(nn.Module):
    """Remove most significant bits, `y = clamp(|round(bit_width - removed)|, smallest, largest)`.

    Rounding and clamp pass gradients unchanged.

    Args:
        bit_width_to_remove_impl: Returns the number of bits to remove.
        min_overall_bit_width: Smallest result.
        max_overall_bit_width: Largest result.

    Example:
        >>> MsbClampBitWidth(BitWidthConst(3), 2, 6)(torch.tensor(8.))
        tensor(5.)
    """

    def __init__(
        self,
        bit_width_to_remove_impl: nn.Module,
        min_overall_bit_width: int,
        max_overall_bit_width: int,
    ) -> None:
        super().__init__()
        self.min_overall_bit_width = BitWidthConst(min_overall_bit_width)
        self.max_overall_bit_width = BitWidthConst(max_overall_bit_width)
        self.bit_width_to_remove_impl = bit_width_to_remove_impl

    def forward(self, input_bit_width: Tensor) -> Tensor:
        """Return the number of bits that are left of `input_bit_width`, both 0-d."""
        kept = round_ste(input_bit_width - self.bit_width_to_remove_impl())
        kept = abs_binary_sign_grad(kept)
        return tensor_clamp_ste(kept, self.min_overall_bit_width(), self.max_overall_bit_width())
