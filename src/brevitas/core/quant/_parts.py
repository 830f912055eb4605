"""What a quantizer refuses as a part of itself. Layer: core (L3)."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["check_parts"]


def check_parts(**parts: Any) -> None:
    """Refuse parts that cannot be called.

    Example:
        >>> check_parts(bit_width_impl=8)
        Traceback (most recent call last):
        TypeError: bit_width_impl=8: expected a torch.nn.Module, or a class of one.
    """
    for name, part in parts.items():
        if not isinstance(part, nn.Module):
            raise TypeError(f"{name}={part!r}: expected a torch.nn.Module, or a class of one.")
