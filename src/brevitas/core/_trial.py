"""A try of a quantizer with another statistic, which leaves no trace. Layer: core (L3).

A searched statistic quantizes with each of its candidates and keeps the best. While one is tried,
the statistic answers with the candidate, and no part collects, counts or learns.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor, nn

__all__ = ["Trial", "current_trial", "on_trial", "trying"]


class Trial(NamedTuple):
    """A candidate, and the statistic that answers with it."""

    statistic: nn.Module
    candidate: Tensor


class _Current(threading.local):
    """The trial of each thread."""

    trial: Trial | None = None


_current = _Current()


def current_trial() -> Trial | None:
    """The trial that runs now, None outside of one."""
    return _current.trial


def on_trial() -> bool:
    """True while a candidate is tried.

    Example:
        >>> on_trial()
        False
    """
    return _current.trial is not None


@contextmanager
def trying(statistic: nn.Module, candidate: Tensor) -> Iterator[None]:
    """Let a statistic answer with a candidate.

    Args:
        statistic: the statistic that searches.
        candidate: its answer, of the shape of the statistic.

    Example:
        >>> import torch
        >>> with trying(nn.Identity(), torch.tensor(0.5)):
        ...     on_trial(), current_trial().candidate
        (True, tensor(0.5000))
    """
    before = _current.trial
    _current.trial = Trial(statistic, candidate)
    try:
        yield
    finally:
        _current.trial = before
