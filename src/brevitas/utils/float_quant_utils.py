"""Numbers of small floating-point formats, from their bits. Layer: utils (L0).

A format has exponent bits, mantissa bits and an exponent bias. A code with exponent bits `e > 0`
stands for `2**(e - bias) * 1.mantissa`, one with `e = 0` for `2**(1 - bias) * 0.mantissa`.
Mantissa codes of the largest exponent may be reserved for infinity and for no number (NaN).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

__all__ = [
    "get_max_available_float",
    "get_midmax_mantissa_bit_bias",
    "get_min_available_float",
    "get_minifloat_value",
    "mantissa_bits_to_float",
]

Codes = Sequence[str] | None
Bits = TypeVar("Bits", int, float, Tensor)


def mantissa_bits_to_float(bits: str, frexp_compatible: bool = False, normal: bool = True) -> float:
    """Value of a mantissa, `1.bits` in binary.

    Args:
        bits: Mantissa bits, the highest first, such as `"101"`.
        frexp_compatible: Give half of it, a significand in [0.5, 1) as `math.frexp` does.
        normal: Count the leading one; without it the value is that of a subnormal, `0.bits`.

    Returns:
        The value.

    Example:
        >>> mantissa_bits_to_float("101"), mantissa_bits_to_float("101", normal=False)
        (1.625, 0.625)
    """
    fraction = int(bits, 2) / 2 ** len(bits) if bits else 0.0
    significand = fraction + normal
    return significand / 2 if frexp_compatible else significand


def get_minifloat_value(exponent: str, mantissa: str, exponent_bias: int) -> float:
    """Value of a positive code.

    Args:
        exponent: Exponent bits, the highest first.
        mantissa: Mantissa bits, the highest first.
        exponent_bias: What is subtracted from the exponent.

    Returns:
        `2**(e - bias) * 1.mantissa`, or `2**(1 - bias) * 0.mantissa` where e is 0.

    Example:
        >>> get_minifloat_value("1111", "110", 7), get_minifloat_value("0000", "001", 7)
        (448.0, 0.001953125)
    """
    code = int(exponent, 2) if exponent else 0
    significand = mantissa_bits_to_float(mantissa, normal=code > 0)
    return math.ldexp(significand, max(code, 1) - int(exponent_bias))


def _reserved_codes(mantissa_bit_width: Bits, nan_values: Codes, inf_values: Codes) -> set[int]:
    """Mantissa codes of the largest exponent that stand for no finite number."""
    if inf_values and not nan_values:
        raise RuntimeError(
            f"Minifloat Error: inf value cannot exist without NaN value. Got inf_values="
            f"{inf_values!r} and nan_values={nan_values!r}: give mantissa codes for NaN, too."
        )
    codes = (*(nan_values or ()), *(inf_values or ()))
    for code in codes:
        is_number = isinstance(mantissa_bit_width, (int, float))
        if (is_number and len(code) != mantissa_bit_width) or set(code) - {"0", "1"}:
            raise ValueError(
                f"Mantissa code {code!r}: expected {mantissa_bit_width} characters 0 or 1, "
                f"as many as there are mantissa bits."
            )
    return {int(code, 2) if code else 0 for code in codes}


def largest_significand(
    mantissa_bit_width: Bits, nan_values: Codes, inf_values: Codes
) -> tuple[bool, Bits | float]:
    """The significand of the largest number, and whether its exponent is below the largest one.

    Numbers have no gaps: a code above a reserved one is left out, too. Where all codes of the
    largest exponent are reserved, the largest number has the exponent below.

    Args:
        mantissa_bit_width: Mantissa bits, a number or a tensor.
        nan_values: Mantissa codes of the largest exponent that stand for NaN, or None.
        inf_values: Those that stand for infinity, or None.

    Returns:
        Whether the exponent is one less than the largest; `1.mantissa`.

    Example:
        >>> largest_significand(3, ("111",), None), largest_significand(2, ("00", "01"), None)
        ((False, 1.75), (True, 1.75))
    """
    reserved = _reserved_codes(mantissa_bit_width, nan_values, inf_values)
    if not reserved or min(reserved) == 0:
        return bool(reserved), 2 - 2.0**-mantissa_bit_width
    # Codes say themselves how many bits they have.
    mantissa_bits = len((nan_values or inf_values or ("",))[0])
    return False, 1 + (min(reserved) - 1) / 2**mantissa_bits


def get_max_available_float(
    exponent_bit_width: int,
    mantissa_bit_width: int,
    exponent_bias: int,
    nan_values: Codes,
    inf_values: Codes,
    saturating: bool,
) -> float:
    """Largest finite number of a format.

    Args:
        exponent_bit_width: Exponent bits.
        mantissa_bit_width: Mantissa bits.
        exponent_bias: What is subtracted from the exponent.
        nan_values: Mantissa codes of the largest exponent that stand for NaN, or None.
        inf_values: Those that stand for infinity, or None.
        saturating: Whether larger values become this number; else they become infinity or NaN.

    Returns:
        The number; infinity where float64 does not hold it.

    Raises:
        RuntimeError: There are codes for infinity but none for NaN.
        ValueError: A format that does not saturate has neither; or a code is not one of the
            mantissa.

    Example:
        >>> get_max_available_float(4, 3, 7, ("111",), None, True)
        448.0
        >>> get_max_available_float(5, 2, 15, ("01", "10", "11"), ("00",), True)
        57344.0

    Reference:
        Open Compute Project, "OCP 8-bit Floating Point Specification (OFP8)", table 2.
    """
    if not saturating and not nan_values and not inf_values:
        raise ValueError(
            "saturating=False: cannot be non-saturating without NaN/inf values, to which larger "
            "values would go. Give nan_values, or saturating=True."
        )
    below, significand = largest_significand(int(mantissa_bit_width), nan_values, inf_values)
    exponent = 2 ** int(exponent_bit_width) - 1 - below
    if exponent <= 0:  # the format has subnormal numbers only
        exponent, significand = 1, significand - 1
    power = exponent - int(exponent_bias)
    # Beyond the range of float64, which has no larger power.
    return math.ldexp(significand, power) if power < sys.float_info.max_exp else math.inf


def get_min_available_float(
    exponent_bit_width: int, mantissa_bit_width: int, exponent_bias: int
) -> float:
    """Smallest positive number of a format: its lowest subnormal, its lowest normal without any.

    Args:
        exponent_bit_width: Exponent bits.
        mantissa_bit_width: Mantissa bits.
        exponent_bias: What is subtracted from the exponent.

    Returns:
        `2**(1 - bias - mantissa_bit_width)`.

    Example:
        >>> get_min_available_float(4, 3, 7)
        0.001953125
    """
    return math.ldexp(1.0, 1 - int(exponent_bias) - int(mantissa_bit_width))


def get_midmax_mantissa_bit_bias(
    mantissa_bit_width: int, nan_values: Codes, inf_values: Codes
) -> float:
    """How many mantissa bits the largest number leaves unused.

    The largest mantissa code `c` of a format is `2**m - 2**bias`, so that `bias` is
    `log2(2**m - c)`: 0 where all mantissas are numbers. Half a step above the largest number is
    what still rounds to it.

    Args:
        mantissa_bit_width: m, mantissa bits.
        nan_values: Mantissa codes of the largest exponent that stand for NaN, or None.
        inf_values: Those that stand for infinity, or None.

    Returns:
        The bias, at least 0.

    Example:
        >>> get_midmax_mantissa_bit_bias(3, ("111",), None)
        1.0
    """
    mantissa_bits = int(mantissa_bit_width)
    _, significand = largest_significand(mantissa_bits, nan_values, inf_values)
    return math.log2(2**mantissa_bits * (2 - significand))
