"""Records which names of injectors are read, to find out which are not. Layer: inject (L2)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

current_reads: ContextVar[set[str] | None] = ContextVar("brevitas_injector_reads", default=None)


@contextmanager
def record_reads(names: set[str] | None = None) -> Iterator[set[str]]:
    """Collect the names that resolutions inside the block read, declared or not.

    An enclosing recording receives the names, too.

    Args:
        names: The set to fill; a new one by default.

    Example:
        >>> from brevitas.inject import Injector
        >>> with record_reads() as names:
        ...     _ = Injector.let(bit_width=8).bit_width
        >>> names
        {'bit_width'}
    """
    names = set() if names is None else names
    outer = current_reads.get()
    token = current_reads.set(names)
    try:
        yield names
    finally:
        current_reads.reset(token)
        if outer is not None:
            outer |= names
