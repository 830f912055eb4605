"""Delayed quantization: the first training steps see the real value. Layer: core (L3)."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["DelayWrapper"]


class _NoDelay(nn.Module):
    """Quantize from the first step."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y


class _DelayQuant(nn.Module):
    """The real value for ``quant_delay_steps`` training steps, the quantized one afterwards."""

    def __init__(self, quant_delay_steps: int) -> None:
        super().__init__()
        self.quant_delay_steps = quant_delay_steps

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.quant_delay_steps > 0:
            if self.training:
                self.quant_delay_steps -= 1
            return x
        return y


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
        """True while a forward pass may return the real value; a part not of ours always may."""
        delay_impl = self.delay_impl
        if type(delay_impl) is _DelayQuant:
            return delay_impl.quant_delay_steps > 0
        return type(delay_impl) is not _NoDelay

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``x`` during the delay, ``y`` afterwards; both of one shape."""
        return self.delay_impl(x, y)
