"""The one rule for what a user may pass as a number of bits.

Layer: core (L3).
"""

from __future__ import annotations

import numbers
from typing import Any

from torch import Tensor

__all__ = ["check_bit_width"]

# No integer type of PyTorch holds more.
_LARGEST = 64


def check_bit_width(value: object, name: str, minimum: int, note: str = "") -> int:
    """Return a number of bits as a Python integer, or say what is wrong with it.

    Args:
        value: An int, an integral float, or a tensor that holds one such number.
        name: Argument name for the message.
        minimum: Smallest number of bits accepted.
        note: Text appended to the message.

    Returns:
        The number of bits.

    Raises:
        ValueError: If the value is a number but no integer, below the minimum or above 64.
        TypeError: If the value is no number.

    Example:
        >>> check_bit_width(8.0, "bit_width", 1)
        8
    """
    expected = f"{name}={value!r}: expected an int >= {minimum}{note}."
    number: Any = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if isinstance(number, bool) or not isinstance(number, numbers.Real):
        raise TypeError(expected)
    bits = float(number)
    if not bits.is_integer() or bits < minimum:
        raise ValueError(expected)
    if bits > _LARGEST:
        raise ValueError(f"{name}={value!r}: expected an int <= {_LARGEST}.")
    return int(bits)
