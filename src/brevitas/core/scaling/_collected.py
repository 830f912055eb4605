"""A parameter that is collected from statistics first, then learned. Layer: core (L3).

The collection is a phase: ``collecting`` is a Python flag that flips once, so eager code takes no
branch on tensors and a compiled model has exactly two graphs, one before the flip and one after it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from itertools import count
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from brevitas.core._state import LearnedValueModule

__all__ = ["CollectedParameter", "in_backward"]

_PROGRESS = "brevitas_collection"
_handles = count()
_modules_by_handle: weakref.WeakValueDictionary[int, CollectedParameter] = (
    weakref.WeakValueDictionary()
)


def in_backward() -> bool:
    """True inside a running backward pass: a forward there is a checkpoint's recomputation."""
    return torch._C._current_graph_task_id() != -1


class CollectedParameter(LearnedValueModule):
    """Base of scales and zero points that are initialised from running statistics.

    For ``collect_stats_steps`` training forwards the statistic of the batch is used and averaged
    into ``buffer``; then ``value`` is set from the average and learned by gradient. Where a
    default process group exists, the averages of all ranks are averaged at that step, which
    every rank has to reach.

    A forward inside a backward pass (recomputation of a checkpoint) neither advances nor ends
    the phase: it repeats the phase of the last ordinary forward.

    Args:
        collect_stats_steps: number of training forwards that collect; 0 for none.
        shape: shape of ``value``, broadcastable to the quantized tensor.
        momentum: weight of the newest batch in the moving average; None for the plain mean.
        initial_value: value of the parameter and of the average before anything was collected.
        dtype: dtype of ``value``.
        device: device of ``value``.

    Raises:
        ValueError: for a number of steps that is no int >= 0, or a momentum outside [0, 1].
    """

    written_in_forward = ("value",)
    buffer: Tensor

    def __init__(
        self,
        collect_stats_steps: int,
        shape: tuple[int, ...],
        momentum: float | None,
        initial_value: float,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
    ) -> None:
        super().__init__()
        steps = collect_stats_steps
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
            raise ValueError(f"collect_stats_steps={steps!r}: expected an int >= 0.")
        if momentum is not None and not 0.0 <= momentum <= 1.0:
            raise ValueError(f"momentum={momentum!r}: expected None or a number in [0, 1].")
        self.collect_stats_steps = steps
        self.momentum = momentum
        self.initial_value = float(initial_value)
        self.counter = 0
        self.collecting = steps > 0
        self.has_statistics = False
        self._collected_last = self.collecting
        self.value = nn.Parameter(torch.full(shape, self.initial_value, dtype=dtype, device=device))
        # No registered buffer: DDP would overwrite the average of every rank with rank 0's.
        self.buffer = self.value.detach().clone()
        self._issue_handle()

    def _issue_handle(self) -> None:
        self._handle = next(_handles)
        _modules_by_handle[self._handle] = self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._issue_handle()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CollectedParameter:
        super()._apply(fn, recurse)
        self.buffer = fn(self.buffer)
        if not self.has_learned_value and not self.value.is_meta:
            # Leaving the meta device, or `to_empty`, has left the memory uninitialised.
            with torch.no_grad():
                self.value.fill_(self.initial_value)
                self.buffer.fill_(self.initial_value)
        return self

    def to_parameter(self, statistic: Tensor) -> Tensor:
        """Map a collected statistic to the domain of ``value`` (the identity by default)."""
        return statistic

    def collects_now(self) -> bool:
        """True when this forward belongs to the collection phase."""
        if torch.compiler.is_compiling():
            return self.collecting
        if in_backward():
            return self._collected_last
        self._collected_last = self.collecting
        return self.collecting

    def running_statistic(self) -> Tensor:
        """The moving average, or the initial value before the first statistic."""
        return (
            self.buffer if self.has_statistics else torch.full_like(self.buffer, self.initial_value)
        )

    def observe(self, statistic: Tensor) -> Tensor:
        """Average the statistic of one batch into ``buffer``; end the phase on the last step.

        Args:
            statistic: statistic of the batch, with as many elements as ``value``.

        Returns:
            ``statistic`` in the shape of ``value``. ``value`` takes part in it with gradient
            exactly zero, so that distributed training sees it used before it is learned.
        """
        statistic = statistic.reshape(self.value.shape)
        if torch.compiler.is_compiling():
            observed = statistic.detach().to(self.buffer.dtype)
            torch.ops.brevitas.observe_statistic(self.buffer, observed, self._handle)
        elif not in_backward():
            self.advance(self.buffer, statistic.detach())
        # A sum over nothing: zero with gradient zero, whatever memory ``to_empty`` left in value.
        return statistic + self.value.expand(0, *self.value.shape).sum(0)

    @torch.no_grad()
    def advance(self, buffer: Tensor, statistic: Tensor) -> None:
        """Take one step of the phase on ``buffer``: the eager body of ``observe``."""
        self.counter += 1
        if self.counter == 1:
            buffer.copy_(statistic)
        elif self.momentum is None:
            buffer.add_((statistic - buffer) / self.counter)
        else:
            buffer.mul_(1.0 - self.momentum).add_(statistic, alpha=self.momentum)
        self.has_statistics = True
        if self.counter >= self.collect_stats_steps:
            self._finish(buffer)

    def _finish(self, buffer: Tensor) -> None:
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(buffer)
            buffer.div_(dist.get_world_size())
        self.value.data.copy_(self.to_parameter(buffer))
        self.collecting = False

    @torch.no_grad()
    def finish_collection(self) -> None:
        """End the phase now: ``value`` takes what was collected so far and is learned."""
        if self.collecting and self.has_statistics:
            self.value.data.copy_(self.to_parameter(self.buffer))
        self.collecting = False
        self.counter = max(self.counter, self.collect_stats_steps)

    @property
    def has_learned_value(self) -> bool:
        """False until a statistic was collected or a checkpoint was loaded."""
        return self.has_statistics or not self.collecting

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not (self.collecting and self.has_statistics):
            return
        average = self.buffer.detach().clone()
        destination[prefix + "value"] = self.to_parameter(average.clone())
        metadata = getattr(destination, "_metadata", None)
        if metadata is not None:
            progress = {"step": self.counter, "average": average}
            metadata.setdefault(prefix[:-1], {})[_PROGRESS] = progress

    def on_learned_value_loaded(self, local_metadata: dict[str, Any]) -> None:
        """Resume the phase where the checkpoint left it; without that record, end it."""
        progress = local_metadata.get(_PROGRESS)
        self.counter = progress["step"] if progress else self.collect_stats_steps
        self.collecting = self.counter < self.collect_stats_steps
        self.has_statistics = True
        if progress:
            with torch.no_grad():
                self.buffer.copy_(progress["average"])


_library = torch.library.Library("brevitas", "FRAGMENT")
_library.define(
    "observe_statistic(Tensor(a!) buffer, Tensor statistic, int handle) -> ()",
    tags=(torch.Tag.cudagraph_unsafe,),
)


def _observe_statistic(buffer: Tensor, statistic: Tensor, handle: int) -> None:
    """Host side of one compiled collection step; a recomputation leaves the phase alone."""
    module = _modules_by_handle.get(handle)
    if module is not None and not in_backward():
        module.advance(buffer, statistic)


_library.impl("observe_statistic", _observe_statistic, "CompositeExplicitAutograd")
_library.impl("observe_statistic", lambda buffer, statistic, handle: None, "Meta")
