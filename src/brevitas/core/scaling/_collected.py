"""A parameter that is collected from statistics first, then learned. Layer: core (L3)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from brevitas.core._phase import PhasedModule, RecentBatches, sample_of
from brevitas.core._state import PROGRESS, LearnedValueModule, save_progress
from brevitas.core._trial import on_trial

__all__ = ["CollectedParameter"]


class CollectedParameter(LearnedValueModule, PhasedModule):
    """Base of scales and zero points that are initialised from running statistics.

    For ``collect_stats_steps`` training forwards the statistic of the batch is used and averaged
    into ``average``; then ``value`` is set from the average and learned by gradient.

    A forward inside a backward pass (recomputation of a checkpoint) neither advances nor ends
    the phase. It belongs to the phase in which its batch was first seen: in the step that ends
    the phase, a batch is recognised by a sample of its values.

    The averages of all ranks are averaged when the phase ends inside a forward of
    ``DistributedDataParallel``, or among the ``statistics_groups`` of a sharded model.

    Args:
        collect_stats_steps: number of training forwards that collect.
        shape: shape of ``value``, broadcastable to the quantized tensor.
        momentum: weight of the newest batch in the moving average; None for the plain mean.
        initial_value: value of the parameter and of the average before anything was collected.
        dtype: dtype of ``value``.
        device: device of ``value``.

    Raises:
        ValueError: for a number of steps that is no int >= 1, or a momentum outside [0, 1].
    """

    written_in_forward = ("value",)
    #: Process groups over which averages are reduced, one after the other.
    statistics_groups: Sequence[Any] = ()

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
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
            raise ValueError(f"collect_stats_steps={steps!r}: expected an int >= 1.")
        if momentum is not None and not 0.0 <= momentum <= 1.0:
            raise ValueError(f"momentum={momentum!r}: expected None or a number in [0, 1].")
        self.collect_stats_steps = steps
        self.momentum = momentum
        self.initial_value = float(initial_value)
        self.counter = 0
        self.collecting = True
        self.has_statistics = False
        self._recent = RecentBatches()
        self.value = nn.Parameter(torch.full(shape, self.initial_value, dtype=dtype, device=device))
        # No registered buffer: DDP would overwrite the average of every rank with rank 0's.
        self.average = self.value.detach().clone()

    @abstractmethod
    def compute_statistic(self, x: Tensor) -> Tensor:
        """Return the statistic of one batch, with as many elements as ``value``."""
        raise NotImplementedError(f"{type(self).__name__} does not compute a statistic.")

    def to_parameter(self, statistic: Tensor) -> Tensor:
        """Map a collected statistic to the domain of ``value`` (the identity by default)."""
        return statistic

    def collect(self, x: Tensor) -> Tensor | None:
        """Return the statistic of ``x`` where this forward collects, None where it learns.

        ``value`` takes part in the statistic with gradient exactly zero, so that distributed
        training sees it used before it is learned.
        """
        if on_trial():
            return self._statistic(x) if self.collecting else None
        if not (self.collecting or self.was_collected(lambda: sample_of(x))):
            return None
        statistic = self._statistic(x)
        if self.collecting:
            self._recent.remember(sample_of(x))
        self.take_step(self.average, statistic.detach().to(self.average.dtype))
        # A sum over nothing: zero with gradient zero, whatever memory ``to_empty`` left in value.
        return statistic + self.value.expand(0, *self.value.shape).sum(0)

    @property
    def counts_forwards(self) -> bool:
        """True while a training forward has to be seen: to collect, or to tell a recomputation."""
        if torch.compiler.is_compiling():
            return self.collecting
        return self.collecting or len(self._recent) > 0

    def was_collected(self, sample: Callable[[], Tensor]) -> bool:
        """True for the recomputation of a batch that was collected shortly before the end.

        Args:
            sample: takes the sample of the batch at hand, where it is asked for.
        """
        return not torch.compiler.is_compiling() and self._recent.recognises(sample)

    def _statistic(self, x: Tensor) -> Tensor:
        statistic = self.compute_statistic(x).reshape(self.value.shape)
        return statistic.to(torch.promote_types(statistic.dtype, torch.float32))

    @torch.no_grad()
    def advance(self, average: Tensor, statistic: Tensor) -> None:
        """Average the statistic of one batch; end the phase on the last step."""
        self.counter += 1
        if self.counter == 1:
            average.copy_(statistic)
        elif self.momentum is None:
            average.add_((statistic - average) / self.counter)
        else:
            average.mul_(1.0 - self.momentum).add_(statistic, alpha=self.momentum)
        self.has_statistics = True
        if self.counter >= self.collect_stats_steps:
            self._finish(average, self._reducing_groups())

    def _reducing_groups(self) -> Sequence[Any]:
        wrapper = DistributedDataParallel._get_active_ddp_module()
        return self.statistics_groups if wrapper is None else (wrapper.process_group,)

    def _finish(self, average: Tensor, groups: Sequence[Any]) -> None:
        for group in groups:
            dist.all_reduce(average, group=group)
            average.div_(dist.get_world_size(group))
        self.value.data.copy_(self.to_parameter(average))
        self.collecting = False

    @torch.no_grad()
    def finish_collection(self, groups: Sequence[Any] = ()) -> None:
        """End the phase now: ``value`` takes what was collected so far and is learned.

        Args:
            groups: process groups over which to average first, besides ``statistics_groups``.
        """
        if self.collecting and self.has_statistics:
            self._finish(self.average, groups or self.statistics_groups)
        self.collecting = False
        self.counter = max(self.counter, self.collect_stats_steps)

    def running_statistic(self) -> Tensor:
        """The moving average, or the initial value before the first statistic."""
        if self.has_statistics:
            return self.average
        return torch.full_like(self.average, self.initial_value)

    @property
    def has_learned_value(self) -> bool:
        """False until a statistic was collected or a checkpoint was loaded."""
        return self.has_statistics or not self.collecting

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CollectedParameter:
        super()._apply(fn, recurse)
        self.average = fn(self.average)
        self._recent.clear()
        if not self.has_learned_value and not self.value.is_meta:
            # Leaving the meta device, or `to_empty`, has left the memory uninitialised.
            with torch.no_grad():
                self.value.fill_(self.initial_value)
                self.average.fill_(self.initial_value)
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not (self.collecting and self.has_statistics):
            return
        average = self.average.detach().clone()
        destination[prefix + "value"] = self.to_parameter(average.clone())
        save_progress(destination, prefix, {"step": self.counter, "average": average})

    def on_learned_value_loaded(self, local_metadata: dict[str, Any]) -> None:
        """Resume the phase where the checkpoint left it; without that record, end it.

        A record that does not fit the loaded value is none: somebody has edited the value.
        """
        progress = local_metadata.get(PROGRESS)
        if progress:
            recorded = self.to_parameter(progress["average"].to(self.value))
            progress = progress if torch.equal(recorded, self.value.detach()) else None
        self.counter = progress["step"] if progress else self.collect_stats_steps
        self.collecting = self.counter < self.collect_stats_steps
        self.has_statistics = True
        self._recent.clear()
        # A new tensor: the old one may still lie on the meta device.
        average = progress["average"] if progress else self.value.detach()
        self.average = average.to(self.value, copy=True)
