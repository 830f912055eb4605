"""Quantizes a tensor on the grid of its own largest magnitude, in one operation. Layer: ops (L1).

    scale = max(max |x|, smallest) / threshold
    y     = clamp(round(x / scale), lower, upper) * scale

The largest magnitude is that of the whole tensor, or of each row. Its gradient is added to that of
``x`` where the largest elements lie, without a tensor of zeros around it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from brevitas.ops._elementwise import needs_autograd
from brevitas.ops._largest import add_at_largest, largest_magnitude
from brevitas.ops.fake_quant import FakeQuantPlan, Operands, fake_quant, input_gradients
from brevitas.ops.scale import positive_scale
from brevitas.utils.autograd import DirectFunction

__all__ = ["SelfScaledPlan", "self_scaled_quant"]

_ONLY_X_AND_SCALE = (True, True, False, False, False, False, False)


class SelfScaledPlan(NamedTuple):
    """How a tensor is quantized on its own grid.

    Attributes:
        plan: rounding and clamp.
        lower: smallest integer.
        upper: largest integer.
        smallest: least magnitude; None for none.
        by_row: one scale for each index of the first dimension, instead of one for all.
        scale_shape: shape of the scale, broadcastable to ``x``.
    """

    plan: FakeQuantPlan
    lower: float
    upper: float
    smallest: float | None
    by_row: bool
    scale_shape: tuple[int, ...]

    def scale_of(self, magnitude: Tensor, threshold: Tensor) -> Tensor:
        """Scale of the largest magnitudes."""
        return positive_scale(magnitude, self.smallest, threshold).view(self.scale_shape)

    def quantize(self, x: Tensor, scale: Tensor) -> Tensor:
        """Quantize on a grid that is given."""
        return fake_quant(x, scale, None, self.lower, self.upper, self.plan)


class _SelfScaledFn(DirectFunction):
    """One node for a tensor and its scale, so that one gradient is made for both."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, threshold: Tensor, how: SelfScaledPlan
    ) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        largest = largest_magnitude(x, how.by_row)
        scale = how.scale_of(largest[0], threshold)
        ctx.how = how
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, threshold, scale, *largest)
        return how.quantize(x, scale), scale

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, None, None]:
        how: SelfScaledPlan = ctx.how
        x, threshold, scale, *largest = ctx.saved_tensors
        grad, grad_scale = grads
        if torch.is_grad_enabled():  # a gradient of the gradient is asked for
            return _differentiable_gradient(x, threshold, how, grads), None, None
        if grad is None:
            grad_x = torch.zeros_like(x)
        else:
            operands = Operands(x, scale, None, how.lower, how.upper)
            grad_x, of_scale, *_ = input_gradients(grad, operands, how.plan, _ONLY_X_AND_SCALE)
            grad_x = grad.clone() if grad_x is grad else grad_x
            grad_scale = of_scale if grad_scale is None else of_scale + grad_scale
        if grad_scale is not None:
            of_largest = grad_scale.view(largest[0].shape) / threshold
            add_at_largest(grad_x, x, tuple(largest), of_largest)
        return grad_x, None, None


def _differentiable_gradient(
    x: Tensor, threshold: Tensor, how: SelfScaledPlan, grads: tuple[Tensor | None, ...]
) -> Tensor:
    """The gradient by operations that can be differentiated themselves."""
    own = x.view_as(x)
    rows = own.reshape(own.shape[0], -1) if how.by_row else None
    magnitude = own.abs().amax() if rows is None else rows.abs().max(1, keepdim=True)[0]
    scale = how.scale_of(magnitude, threshold)
    pairs = zip((how.quantize(own, scale), scale), grads, strict=True)
    outputs, given = zip(*(pair for pair in pairs if pair[1] is not None), strict=True)
    return torch.autograd.grad(outputs, own, given, create_graph=True)[0]


def self_scaled_quant(x: Tensor, threshold: Tensor, how: SelfScaledPlan) -> tuple[Tensor, Tensor]:
    """Quantize a tensor on the grid of its own largest magnitude.

    ``y = clamp(round(x / scale), lower, upper) * scale`` with
    ``scale = max(max |x|, smallest) / threshold``; the gradient of the scale goes to the largest
    elements of ``x``.

    Args:
        x: real values in float32 or float64, in plain eager code.
        threshold: integer that the largest magnitude maps to, 0-d.
        how: rounding, limits, and which elements share a scale.

    Returns:
        The value in the shape of ``x``, and the scale in the shape that ``how`` states.

    Example:
        >>> how = SelfScaledPlan(FakeQuantPlan(), -7.0, 7.0, None, False, ())
        >>> self_scaled_quant(torch.tensor([0.26, -3.5]), torch.tensor(7.0), how)
        (tensor([ 0.5000, -3.5000]), tensor(0.5000))
    """
    if not needs_autograd((x,)):
        scale = how.scale_of(largest_magnitude(x, how.by_row)[0], threshold)
        return how.quantize(x, scale), scale
    return _SelfScaledFn.apply(x, threshold, how)
