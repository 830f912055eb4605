"""Delayed quantization: the first training steps see the real value. Layer: core (L3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from brevitas.core._phase import PhasedModule, RecentBatches, sample_of
from brevitas.core._state import PROGRESS, save_progress
from brevitas.core._trial import on_trial

__all__ = ["DelayWrapper"]


class _NoDelay(nn.Module):
    """Quantize from the first step."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y


class _DelayQuant(PhasedModule):
    """The real value for ``quant_delay_steps`` training steps, the quantized one afterwards."""

    def __init__(self, quant_delay_steps: int) -> None:
        super().__init__()
        self.quant_delay_steps = quant_delay_steps
        self.delaying = quant_delay_steps > 0
        self._recent = RecentBatches()
        # Said to be written to: a compiler drops a call that changes nothing which outlives it.
        self._written = torch.empty(0, device="cpu")

    def advance(self, average: Tensor, statistic: Tensor) -> None:
        """Count one training step."""
        self.quant_delay_steps -= 1
        self.delaying = self.quant_delay_steps > 0

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if on_trial() or not (self.delaying or self._was_delayed(x)):
            return y
        if self.training:
            if self.delaying:
                self._recent.remember(sample_of(x))
            self.take_step(self._written, self._written)
        return x

    def _was_delayed(self, x: Tensor) -> bool:
        """True for the recomputation of a forward that was delayed shortly before the end."""
        if torch.compiler.is_compiling():
            return False
        return self._recent.recognises(lambda: sample_of(x))

    @property
    def may_delay(self) -> bool:
        """True while a forward, or the recomputation of one, returns the real value."""
        return self.delaying or (not torch.compiler.is_compiling() and len(self._recent) > 0)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _DelayQuant:
        self._recent.clear()
        return super()._apply(fn, recurse)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        save_progress(destination, prefix, {"step": self.quant_delay_steps})

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)
        if PROGRESS in local_metadata:
            self._recent.clear()
            self.quant_delay_steps = local_metadata[PROGRESS]["step"]
            self.delaying = self.quant_delay_steps > 0


class DelayWrapper(nn.Module):
    """Choose between the real value ``x`` and the quantized value ``y``.

    Args:
        quant_delay_steps: number of training steps that see the real value; None or 0 for none.

    Raises:
        ValueError: for a negative or non-integer number of steps.

    Example:
        >>> import torch
        >>> delay = DelayWrapper(quant_delay_steps=1)
        >>> x, y = torch.tensor([0.3]), torch.tensor([0.0])
        >>> delay(x, y), delay(x, y)
        (tensor([0.3000]), tensor([0.]))
    """

    def __init__(self, quant_delay_steps: int | None = 0) -> None:
        super().__init__()
        steps = 0 if quant_delay_steps is None else quant_delay_steps
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
            raise ValueError(
                f"quant_delay_steps={quant_delay_steps!r}: expected an int >= 0 or None."
            )
        self.delay_impl = _DelayQuant(steps) if steps else _NoDelay()

    @property
    def is_active(self) -> bool:
        """True while training sees the real value; with a part not of ours it always may."""
        delay_impl = self.delay_impl
        return delay_impl.delaying if type(delay_impl) is _DelayQuant else self.may_delay

    @property
    def ever_delays(self) -> bool:
        """False where there never was a delay."""
        return type(self.delay_impl) is not _NoDelay

    @property
    def may_delay(self) -> bool:
        """True while ``forward`` has to be asked which value to take."""
        delay_impl = self.delay_impl
        if type(delay_impl) is _DelayQuant:
            return delay_impl.may_delay
        return self.ever_delays

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``x`` during the delay, ``y`` afterwards; both of one shape."""
        return self.delay_impl(x, y)
