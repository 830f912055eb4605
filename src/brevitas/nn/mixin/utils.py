"""Splits a layer's keywords by prefix. Layer: nn (L6)."""

from __future__ import annotations

from typing import Any

__all__ = ["filter_kwargs"]


def filter_kwargs(kwargs_prefix: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the keywords that start with a prefix, without it.

    Args:
        kwargs_prefix: the prefix, e.g. ``weight_``; empty for all keywords.
        kwargs: keywords of the layer.

    Example:
        >>> filter_kwargs("weight_", {"weight_bit_width": 4, "input_signed": True})
        {'bit_width': 4}
    """
    start = len(kwargs_prefix)
    return {key[start:]: kwargs[key] for key in kwargs if key.startswith(kwargs_prefix)}
