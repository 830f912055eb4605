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

from brevitas.ops._elementwise import needs_autograd, reduced_to
from brevitas.ops._largest import Largest, add_at_largest, largest_magnitude
from brevitas.ops.fake_quant import FakeQuantPlan, Operands, fake_quant, input_gradients
from brevitas.ops.scale import positive_scale
from brevitas.utils.autograd import DirectFunction

__all__ = ["Requantizer", "SelfScaledPlan", "requantizer_of", "self_scaled_quant"]

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
        if self.smallest is not None:
            magnitude = magnitude.clamp_min(self.smallest)
        scale = magnitude / threshold
        return scale if scale.shape == self.scale_shape else scale.view(self.scale_shape)

    def quantize(self, x: Tensor, scale: Tensor) -> Tensor:
        """Quantize on a grid that is given."""
        return fake_quant(x, scale, None, self.lower, self.upper, self.plan)


class Requantizer:
    """Quantizes a parameter once more, on the scale of an earlier call.

    Args:
        how: plan of the earlier call.
        x: the parameter.
        threshold: threshold of the earlier call.
        scale: scale of the earlier call.
    """

    def __init__(self, how: SelfScaledPlan, x: Tensor, threshold: Tensor, scale: Tensor) -> None:
        self.how = how
        #: What ``quantize`` takes. The caller saves them, and so sees whether they have changed.
        self.operands = (x, threshold, scale)

    def quantize(self, x: Tensor, threshold: Tensor, scale: Tensor) -> Tensor:
        """Return what the earlier call returned, with a gradient where one may be asked for."""
        if torch.is_grad_enabled():
            return self_scaled_quant(x, threshold, self.how)[0]
        return self.how.quantize(x, scale)

    def hand_over(self, node: Any, value: Tensor, grad: Tensor | None) -> None:
        """Give what was made for the backward pass of the earlier call, which may overwrite it.

        Args:
            node: of the earlier call.
            value: quantized once more.
            grad: gradient of the value, which nobody but autograd has; None for none.
        """
        node.handed_over = (value, None if grad is None else grad.data_ptr())


def requantizer_of(value: Tensor) -> Requantizer | None:
    """What quantizes a tensor once more, where it is a parameter on its own grid; else None.

    Example:
        >>> how = SelfScaledPlan(FakeQuantPlan(), -7.0, 7.0, None, False, ())
        >>> x = torch.tensor([0.26, -3.5], requires_grad=True)
        >>> value, scale = self_scaled_quant(x, torch.tensor(7.0), how)
        >>> requantizer = requantizer_of(value)
        >>> requantizer.quantize(*requantizer.operands).tolist(), requantizer_of(scale * 2)
        ([0.5, -3.5], None)
    """
    node: Any = value.grad_fn
    return node.requantizer if type(node) is _SelfScaledFn._backward_cls else None  # pyright: ignore[reportAttributeAccessIssue]


class _SelfScaledFn(DirectFunction):
    """One node for a tensor and its scale, so that one gradient is made for both."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, threshold: Tensor, how: SelfScaledPlan
    ) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        largest = largest_magnitude(x, how.by_row)
        scale = how.scale_of(largest.magnitude, threshold)
        ctx.how = how
        # A parameter lives longer than the graph in any case, others may not.
        ctx.requantizer = Requantizer(how, x, threshold, scale.detach()) if x.is_leaf else None
        ctx.handed_over = (None, None)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, threshold, scale, *largest)
        return how.quantize(x, scale), scale

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, None, None]:
        how: SelfScaledPlan = ctx.how
        x, threshold, scale, *found = ctx.saved_tensors
        grad, grad_scale = grads
        if torch.is_grad_enabled():  # a gradient of the gradient is asked for
            return _differentiable_gradient(x, threshold, how, grads), None, None
        handed_over, ctx.handed_over = ctx.handed_over, (None, None)
        if grad is None:
            grad_x = torch.zeros_like(x)
        else:
            # That of the scale is added: an embedding's sparse gradient ends as a dense one.
            grad = grad if grad.layout is torch.strided else grad.to_dense()
            grad_x, of_scale = _gradients(grad, x, scale, how, *handed_over)
            grad_scale = of_scale if grad_scale is None else of_scale + grad_scale
        if grad_scale is not None:
            largest = Largest(*found)
            of_largest = grad_scale.view(largest.magnitude.shape) / threshold
            add_at_largest(grad_x, x, largest, of_largest)
        return grad_x, None, None


def _gradients(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    how: SelfScaledPlan,
    value: Tensor | None,
    own_memory: int | None,
) -> tuple[Tensor, Tensor]:
    """Gradients for ``x`` at a fixed scale, and for the scale.

    Where nothing counts as clamped, ``d y / d scale = (y - x) / scale``.

    Args:
        grad: gradient of the value.
        x: real values.
        scale: real value of one integer step.
        how: the plan.
        value: the quantized value, to be overwritten; None where it is not at hand.
        own_memory: address of a gradient that may be overwritten; None for none.
    """
    passes = how.plan.clamp_passes_gradient
    if value is not None and passes and x.is_contiguous() and grad.is_contiguous():
        error = value.sub_(x)
        if how.by_row:
            of_scale = reduced_to(scale, error.mul_(grad)) / scale
        else:
            of_scale = torch.dot(error.view(-1), grad.view(-1)).view(scale.shape) / scale
        return grad if grad.data_ptr() == own_memory else error.copy_(grad), of_scale
    operands = Operands(x, scale, None, how.lower, how.upper)
    grad_x, of_scale, *_ = input_gradients(grad, operands, how.plan, _ONLY_X_AND_SCALE)
    assert grad_x is not None and of_scale is not None
    return grad.clone() if grad_x is grad else grad_x, of_scale


def _differentiable_gradient(
    x: Tensor, threshold: Tensor, how: SelfScaledPlan, grads: tuple[Tensor | None, ...]
) -> Tensor:
    """The gradient by operations that can be differentiated themselves."""
    own = x.view_as(x)
    rows = own.reshape(own.shape[0], -1) if how.by_row else None
    magnitude = own.abs().amax() if rows is None else rows.abs().max(1, keepdim=True)[0]
    scale = positive_scale(magnitude, how.smallest, threshold).view(how.scale_shape)
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
        scale = how.scale_of(largest_magnitude(x, how.by_row).magnitude, threshold)
        return how.quantize(x, scale), scale
    return _SelfScaledFn.apply(x, threshold, how)
