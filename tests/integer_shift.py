"""Dropping low bits in integer arithmetic alone, as hardware does it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def _round(q: Tensor, bits: int) -> Tensor:
    """To nearest, half to even: add up where the dropped bits say so."""
    floor, half = q >> bits, (1 << bits) >> 1
    dropped = q - (floor << bits)
    up = (dropped > half) | ((dropped == half) & (floor & 1 == 1))
    return floor + (up & (half > 0))


def _dpu(q: Tensor, bits: int) -> Tensor:
    """As `_round`, but halves of negative integers go up."""
    floor, half = q >> bits, (1 << bits) >> 1
    is_half = (q - (floor << bits) == half) & (half > 0)
    return torch.where(is_half & (q < 0), floor + 1, _round(q, bits))


SHIFTS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "FLOOR": lambda q, bits: q >> bits,
    "CEIL": lambda q, bits: -(-q >> bits),
    "ROUND_TO_ZERO": lambda q, bits: torch.where(q < 0, -(-q >> bits), q >> bits),
    "ROUND": _round,
    "DPU": _dpu,
}


def limits(bits: int, signed: bool, narrow: bool = False) -> tuple[int, int]:
    """Smallest and largest integer of a format."""
    if signed:
        return -(2 ** (bits - 1)) + narrow, 2 ** (bits - 1) - 1
    return 0, 2**bits - 1 - narrow


def truncated(
    q: Tensor, bits_in: int, bits_out: int, mode: str, signed: bool, narrow: bool = False
) -> Tensor:
    """Shift int64 integers of `bits_in` bits to `bits_out` bits, and saturate."""
    assert q.dtype == torch.int64
    dropped = bits_in - bits_out
    shifted = SHIFTS[mode](q, dropped) if dropped >= 0 else q << -dropped
    return shifted.clamp(*limits(bits_out, signed, narrow))
