"""Modules whose training has two phases, told apart by one Python flag. Layer: core (L3).

The flag flips once, so that eager code branches on no tensor and a compiled model has exactly two
graphs, one before the flip and one after it. What advances the phase runs on the host: called
directly in eager mode, through an operator that the compiler does not look into otherwise.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["HostModule", "PhasedModule", "RecentBatches", "in_backward", "sample_of"]

# Forwards after the end of a phase in which a recomputation may still belong to it.
_RECENT = 64
# Values of a batch by which it is known.
_SAMPLE = 64

_handles = count()
_modules_by_handle: weakref.WeakValueDictionary[int, HostModule] = weakref.WeakValueDictionary()
# Said to be written to by all work on the host, so that a compiler keeps its order.
_order = torch.empty(0, device="cpu")


def in_backward() -> bool:
    """True inside a running backward pass: a forward there is a checkpoint's recomputation."""
    return torch._C._current_graph_task_id() != -1


def sample_of(x: Tensor) -> Tensor:
    """Some values of a tensor, from all over it, by which it is told from others.

    Example:
        >>> sample_of(torch.arange(6.0).view(2, 3))
        tensor([0., 1., 2., 3., 4., 5.])
    """
    x = x.detach()
    # In the order of memory, so that a large tensor in another format is not copied.
    is_dense = x.is_contiguous() or x.is_contiguous(memory_format=_memory_format(x))
    flat = x.as_strided((x.numel(),), (1,)) if is_dense else x.reshape(-1)
    return flat[:: max(1, x.numel() // _SAMPLE)].clone()


def _memory_format(x: Tensor) -> torch.memory_format:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return formats.get(x.dim(), torch.contiguous_format)


class HostModule(nn.Module):
    """Base of modules with work that runs on the host, also where a model is compiled.

    An operator finds its module by a handle, which deepcopy and unpickling issue anew. The
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

    def run_on_host(self, x: Tensor, start: Tensor) -> Tensor:
        """Return what a compiled model asks for by ``call_on_host``."""
        raise NotImplementedError(f"{type(self).__name__} has no work for the host.")

    def call_on_host(self, x: Tensor, start: Tensor) -> Tensor:
        """Run ``run_on_host`` in one operator, into which the compiler does not look.

        Args:
            x: its input, outside of autograd.
            start: a tensor of the shape, dtype and device of the result.
        """
        return torch.ops.brevitas.run_on_host(_order, x, start, self._handle)


class PhasedModule(HostModule):
    """Base of modules that count their training forwards and change at the last one."""

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


class RecentBatches:
    """Recognises the recomputation of batches that belong to a phase which has just ended.

    A batch is known by a sample of its values. Those of the last forwards of the phase are kept
    until a backward pass has recomputed batches, or for a number of forwards where none is.
    """

    def __init__(self) -> None:
        self._samples: deque[Tensor] = deque(maxlen=_RECENT)
        self._forwards_since_end = 0
        self._recomputed = False

    def __len__(self) -> int:
        return len(self._samples)

    def remember(self, sample: Tensor) -> None:
        """Keep the sample of a batch of the phase; a recomputation is none of its own.

        Called before the phase counts it.
        """
        if not (torch.compiler.is_compiling() or in_backward()):
            self._samples.append(sample)

    def clear(self) -> None:
        """Forget all batches."""
        self._samples.clear()

    def recognises(self, sample: Callable[[], Tensor]) -> bool:
        """Called after the phase: True if the batch at hand belongs to it all the same.

        Args:
            sample: takes what would be remembered of the batch.
        """
        if not self._samples:
            return False
        is_recomputation = in_backward()
        if not is_recomputation:
            # The batches before a finished backward pass are not recomputed any more.
            self._forwards_since_end += 1
            if self._recomputed or self._forwards_since_end > _RECENT:
                self.clear()
                return False
        self._recomputed = is_recomputation
        taken = sample()
        others = [seen for seen in self._samples if not torch.equal(taken, seen)]
        if is_recomputation:
            return len(others) < len(self._samples)
        # A batch that comes back, after a warm-up say, is of the new phase: also when recomputed.
        self._samples = deque(others, maxlen=_RECENT)
        return False


_library = torch.library.Library("brevitas", "FRAGMENT")
_library.define(
    "run_on_host(Tensor(a!) order, Tensor x, Tensor start, Tensor handle) -> Tensor",
    tags=(torch.Tag.cudagraph_unsafe,),
)
_library.define(
    "advance_phase(Tensor(a!) average, Tensor statistic, Tensor handle) -> ()",
    tags=(torch.Tag.cudagraph_unsafe,),
)


def _advance_phase(average: Tensor, statistic: Tensor, handle: Tensor) -> None:
    module = _modules_by_handle.get(int(handle))
    if isinstance(module, PhasedModule) and not in_backward():
        module.advance(average, statistic)


def _run_on_host(order: Tensor, x: Tensor, start: Tensor, handle: Tensor) -> Tensor:
    module = _modules_by_handle.get(int(handle))
    # An operator gives memory of its own.
    return start.clone() if module is None else module.run_on_host(x, start).clone()


_library.impl("advance_phase", _advance_phase, "CompositeExplicitAutograd")
_library.impl("advance_phase", lambda average, statistic, handle: None, "Meta")
_library.impl("run_on_host", _run_on_host, "CompositeExplicitAutograd")
_library.impl("run_on_host", lambda order, x, start, handle: torch.empty_like(start), "Meta")
