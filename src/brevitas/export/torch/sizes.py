"""The sizes of inputs that a file was written for, checked where the file runs. Layer: export (L8).

TorchScript records what a model does with sizes that it reads off a tensor only for some
operators. A size that another one reads is a constant of the file, and another size would give
wrong results without a word.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

__all__ = ["Limits", "expect_sizes", "fixed_symbols", "limits_of"]

# Beyond what a size of 64 bits holds.
_UNLIMITED = 2**62


@dataclass(frozen=True)
class Limits:
    """Smallest and largest size of each dimension of one input.

    Example:
        >>> Limits([0, 3], [2**62, 3]).text
        '[any, 3]'
    """

    low: Sequence[int]
    high: Sequence[int]

    @property
    def text(self) -> str:
        """The sizes for messages."""
        return f"[{', '.join(map(_in_words, self.low, self.high))}]"


def _in_words(low: int, high: int) -> str:
    if low == high:
        return str(low)
    if high < _UNLIMITED:
        return f"{low} to {high}"
    return f"at least {low}" if low > 1 else "any"


def fixed_symbols(graph: fx.Graph, recorded: Collection[Any]) -> set[Any]:
    """Find the open sizes that a file will hold as constants.

    Args:
        graph: a traced model; its nodes carry symbolic sizes in ``meta["val"]``.
        recorded: operators for which TorchScript records the sizes that they read.

    Returns:
        Symbols of the sizes that any other operator reads.
    """
    fixed: set[Any] = set()
    for node in graph.nodes:
        if node.op in ("placeholder", "get_attr") or node.target in recorded:
            continue
        for argument in node.all_input_nodes:
            size = argument.meta.get("val")
            if isinstance(size, (torch.SymInt, torch.SymFloat, torch.SymBool)):
                fixed |= size.node.expr.free_symbols
    return fixed


def limits_of(example: Tensor, traced: Tensor, fixed: set[Any], ranges: Any) -> Limits:
    """Find which sizes of an input a file can be run with.

    Args:
        example: the input that the model was traced with.
        traced: its stand-in in the trace, which knows open sizes by symbols.
        fixed: symbols of sizes that the file holds as constants.
        ranges: what the trace found for each symbol.

    Returns:
        The limits.
    """
    bounds = [
        _bounds(size, symbolic, fixed, ranges)
        for size, symbolic in zip(example.shape, traced.shape, strict=True)
    ]
    return Limits([low for low, _ in bounds], [high for _, high in bounds])


def _bounds(size: int, symbolic: Any, fixed: set[Any], ranges: Any) -> tuple[int, int]:
    """Find the smallest and the largest size of one dimension."""
    expression = symbolic.node.expr if isinstance(symbolic, torch.SymInt) else None
    symbols = set() if expression is None else expression.free_symbols
    if not symbols or symbols & fixed:
        return size, size
    found = ranges.get(expression)
    if found is None:
        return 0, _UNLIMITED
    return int(found.lower), _UNLIMITED if found.upper >= _UNLIMITED else int(found.upper)


def expect_sizes(x: Tensor, low: list[int], high: list[int], expected: str) -> Tensor:
    """Return ``x``, or raise where a size is out of limits; compiled, it is part of a file.

    Args:
        x: an input.
        low: smallest size of each dimension.
        high: largest size of each dimension.
        expected: the limits in words.

    Raises:
        ValueError: on other sizes.
    """
    fits = x.dim() == len(low)
    for index in range(len(low)):
        if fits:
            fits = x.size(index) >= low[index] and x.size(index) <= high[index]
    if not fits:
        raise ValueError(
            f"sizes {x.shape}: this file was written for {expected}; export the model with an "
            "example of these sizes."
        )
    return x
