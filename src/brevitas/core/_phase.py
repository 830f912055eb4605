"""Modules whose training has two phases, told apart by one Python flag. Layer: core (L3).

The flag flips once, so that eager code branches on no tensor and a compiled model has exactly two
graphs, one before the flip and one after it. What advances the phase runs on the host: called
directly in eager mode, through an operator that the compiler does not look into otherwise.
"""

from __future__ import annotations

import weakref
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["PhasedModule", "in_backward"]

_handles = count()
_modules_by_handle: weakref.WeakValueDictionary[int, PhasedModule] = weakref.WeakValueDictionary()


def in_backward() -> bool:
    """True inside a running backward pass: a forward there is a checkpoint's recomputation."""
    return torch._C._current_graph_task_id() != -1


class PhasedModule(nn.Module):
    """Base of modules that count their training forwards and change at the last one.

    The operator finds its module by a handle, which deepcopy and unpickling issue anew. The
    handle is a tensor, so that layers of one kind that are compiled one by one share a graph.
    """

    def __init__(self) -> None:
        super().__init__()
        self._issue_handle()

    def _issue_handle(self) -> None:
        handle = next(_handles)
        self._handle = torch.tensor(handle, device="cpu")
        _modules_by_handle[handle] = self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._issue_handle()

    def advance(self, average: Tensor, statistic: Tensor) -> None:
        """Take one step of the phase on the host."""
        raise NotImplementedError(f"{type(self).__name__} does not advance its phase.")

    def take_step(self, average: Tensor, statistic: Tensor) -> None:
        """Advance once for this forward; a recomputation leaves the phase alone.

        Args:
            average: tensor that the step may write to; it lives longer than the forward.
            statistic: what was seen, outside of autograd.
        """
        if torch.compiler.is_compiling():
            torch.ops.brevitas.advance_phase(average, statistic, self._handle)
        elif not in_backward():
            self.advance(average, statistic)


_library = torch.library.Library("brevitas", "FRAGMENT")
_library.define(
    "advance_phase(Tensor(a!) average, Tensor statistic, Tensor handle) -> ()",
    tags=(torch.Tag.cudagraph_unsafe,),
)


def _advance_phase(average: Tensor, statistic: Tensor, handle: Tensor) -> None:
    module = _modules_by_handle.get(int(handle))
    if module is not None and not in_backward():
        module.advance(average, statistic)


_library.impl("advance_phase", _advance_phase, "CompositeExplicitAutograd")
_library.impl("advance_phase", lambda average, statistic, handle: None, "Meta")
