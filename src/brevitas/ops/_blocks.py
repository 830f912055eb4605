"""Large tensors of a CPU, split in blocks that stay in the cache of a core. Layer: ops (L1).

An operation on a large tensor reads and writes all of it, and new memory costs more time than
arithmetic does. Several operations on one block after the other read and write each value once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from brevitas.ops.layout import Layout, layout_of

__all__ = ["Blocks", "layout_for_blocks", "memory_like"]

# Elements of a block, for each thread: what it needs fits into the cache of a core, and the calls
# cost little beside the work.
BLOCK = 131072


def layout_for_blocks(x: Tensor, *parameters: Tensor | None) -> Layout | None:
    """The view of a tensor of a CPU that is split in blocks; None where it is not worth it.

    Args:
        x: real values.
        *parameters: one number each, or one per channel.

    Example:
        >>> layout_for_blocks(torch.zeros(10)) is None
        True
        >>> layout_for_blocks(torch.zeros(1024, 1024), torch.ones(1024, 1)).kind
        'rows'
    """
    if x.numel() <= BLOCK * torch.get_num_threads() or x.device.type != "cpu":
        return None
    return layout_of(x, *(p.shape for p in parameters if p is not None))


def memory_like(x: Tensor, layout: Layout) -> Tensor:
    """Memory for a result in the shape of ``x``, which the layout views without a copy."""
    has_gaps = layout.order is None and not x.is_contiguous()
    return x.new_empty(x.shape) if has_gaps else torch.empty_like(x)


class Blocks:
    """Blocks of tensors of one shape along their first dimension, with those of their parameters.

    Args:
        layout: what ``layout_for_blocks`` found.
        tensors: of the layout's shape; those that are written to are views of their memory.
        parameters: one number each, or one per channel; or None.

    Attributes:
        by_row: whether each block has channels of its own.
    """

    def __init__(
        self, layout: Layout, tensors: Sequence[Tensor], parameters: Sequence[Tensor | None]
    ) -> None:
        self.by_row = layout.kind in ("rows", "elements", "groups")
        self._tensors = [layout.flatten(tensor) for tensor in tensors]
        self._parameters = [None if p is None else layout.flatten_channels(p) for p in parameters]
        first = self._tensors[0]
        most = BLOCK * torch.get_num_threads()
        self._size = max(1, most * len(first) // first.numel())

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """Go through the blocks: the parts of the tensors, then those of the parameters."""
        size = self._size
        parts = (
            p.split(size) if p is not None and self.by_row and p.dim() > 0 else repeat(p)
            for p in self._parameters
        )
        return zip(*(tensor.split(size) for tensor in self._tensors), *parts, strict=False)
