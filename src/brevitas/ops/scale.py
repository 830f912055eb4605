"""A positive scale from a statistic or a learned value, in one operation. Layer: ops (L1).

scale = max(|value|, smallest) / threshold
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from brevitas.ops._elementwise import needs_autograd
from brevitas.utils.autograd import DirectFunction

__all__ = ["positive_scale"]


class _PositiveScaleFn(DirectFunction):
    """The absolute value passes its sign to the gradient, the limit from below changes nothing."""

    @staticmethod
    def forward(value: Tensor, smallest: float | None, threshold: Tensor) -> Tensor:
        magnitude = torch.abs(value)
        if smallest is not None:
            magnitude.clamp_min_(smallest)
        return magnitude.div_(threshold)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        value, _, threshold = inputs
        ctx.save_for_backward(value, threshold)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, None, None]:
        value, threshold = ctx.saved_tensors
        return grad_outputs[0] / torch.copysign(threshold, value), None, None


def positive_scale(value: Tensor, smallest: float | None, threshold: Tensor) -> Tensor:
    """Scale of a real value that the integer ``threshold`` stands for.

    ``scale = max(|value|, smallest) / threshold``; the limit from below passes the gradient.

    Args:
        value: a statistic or a learned value, of any shape, in float32 or float64.
        smallest: least magnitude; None for none.
        threshold: 0-d, positive, without gradient.

    Returns:
        Real value of one integer step, of the shape of ``value``.

    Example:
        >>> positive_scale(torch.tensor([-6.0, 0.0]), 1.0, torch.tensor(2.0))
        tensor([3.0000, 0.5000])
    """
    if not needs_autograd((value,)):
        return _PositiveScaleFn.forward(value, smallest, threshold)
    return _PositiveScaleFn.apply(value, smallest, threshold)
