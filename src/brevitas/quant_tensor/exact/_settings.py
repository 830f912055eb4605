"""How integers are rounded and which register takes the result: the keywords of exact arithmetic.

Layer: quant_tensor (L2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

from brevitas.ops.fake_quant import ROUNDING_MODES
from brevitas.quant_tensor.exact._overflow import OVERFLOWS

# Sums and products of integers below 2**52 are exact in float64, with one bit to spare for the
# wrap-around; see `wrap`.
EXACT_BITS = 52


class Options(TypedDict, total=False):
    """The keywords of every exact operation; `integer_arithmetic` says what they mean."""

    rounding: str
    overflow: str
    bit_width: int | None
    signed: bool | None
    as_integers: bool


@dataclass(frozen=True)
class Settings:
    """The keywords of one operation, checked; `integer_arithmetic` says what they mean."""

    rounding: str = "ROUND"
    overflow: str = "saturate"
    bit_width: int | None = None
    signed: bool | None = None
    as_integers: bool = False

    def __post_init__(self) -> None:
        _check_choice("rounding", self.rounding, ROUNDING_MODES)
        _check_choice("overflow", self.overflow, OVERFLOWS)
        _check_bit_width(self.bit_width)
        if self.signed not in (None, False, True):
            raise ValueError(f"signed={self.signed!r}: expected True, False, or None to derive it.")


def _check_choice(name: str, given: Any, accepted: dict[str, Any]) -> None:
    if given not in accepted:
        raise ValueError(f"{name}={given!r}: expected one of {', '.join(accepted)}.")


def _check_bit_width(bit_width: Any) -> None:
    is_int = isinstance(bit_width, int) and not isinstance(bit_width, bool)
    if bit_width is not None and not (is_int and 1 <= bit_width <= EXACT_BITS):
        raise ValueError(
            f"bit_width={bit_width!r}: expected an int from 1 to {EXACT_BITS}, the bits that "
            f"float64 arithmetic keeps exact, or None for the smallest that holds every result."
        )
