"""The one fake-quantization operation under every affine integer quantizer. Layer: ops (L1).

    integer = clamp(round(x / scale + zero_point), lower, upper)
    y       = (integer - zero_point) * scale

Integers found on one grid may be placed on another, with an output scale and zero point.
It reads ``x`` once, saves at most ``x`` for the backward pass and recomputes the rest there, so a
quantized tensor costs about as much as a ReLU on it instead of a chain of ten saved intermediates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from brevitas.function.ops import dpu_round
from brevitas.ops._elementwise import batch_first, is_expandable, needs_autograd
from brevitas.ops._gradients import input_gradients
from brevitas.ops._operands import (
    ROUNDING_MODES,
    Bound,
    FakeQuantPlan,
    Operands,
    clamp_by_tensors,
)
from brevitas.utils.autograd import DirectFunction
from brevitas.utils.torch_utils import widened

__all__ = [
    "IN_PLACE_ROUNDING",
    "ROUNDING_MODES",
    "FakeQuantPlan",
    "Operands",
    "fake_quant",
    "input_gradients",
    "to_integer",
]

#: The same on tensors that may be overwritten.
IN_PLACE_ROUNDING: dict[str, Callable[[Tensor], Tensor]] = {
    "ROUND": torch.Tensor.round_,
    "CEIL": torch.Tensor.ceil_,
    "FLOOR": torch.Tensor.floor_,
    "ROUND_TO_ZERO": torch.Tensor.trunc_,
    "DPU": dpu_round,
}


def to_integer(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, lower: Bound, upper: Bound, rounding: str
) -> Tensor:
    """Map real values to clamped integers: ``clamp(round(x / scale + zero_point), lower, upper)``.

    Args:
        x: real values, any shape.
        scale: real value of one integer step, broadcastable to ``x``.
        zero_point: integer that stands for zero, broadcastable to ``x``; None means zero.
        lower: smallest integer, a number or a 0-d tensor.
        upper: largest integer, a number or a 0-d tensor.
        rounding: one of ``ROUNDING_MODES``.

    Returns:
        Integers in a float tensor of the shape of ``x``; NaN stays NaN, infinities clamp.

    Example:
        >>> to_integer(torch.tensor([0.26, -9.0]), torch.tensor(0.1), None, -8.0, 7.0, "ROUND")
        tensor([ 3., -8.])
    """
    integer = widened(x) / scale
    if zero_point is not None:
        is_broader = zero_point.dim() > 0 and not is_expandable(zero_point, integer)
        integer = integer + zero_point if is_broader else integer.add_(zero_point)
    integer = IN_PLACE_ROUNDING[rounding](integer)
    if isinstance(lower, Tensor) or isinstance(upper, Tensor):
        return clamp_by_tensors(integer, lower, upper)
    return integer.clamp_(lower, upper)


class _FakeQuantFn(DirectFunction):
    """Fused forward in place, analytic backward from ``x`` alone."""

    @staticmethod
    def forward(
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        lower: Bound,
        upper: Bound,
        plan: FakeQuantPlan,
        output_scale: Tensor | None = None,
        output_zero_point: Tensor | None = None,
    ) -> Tensor:
        # Rectified where the smallest integer is zero: the clamp does that as well.
        integer = to_integer(x, scale, zero_point, lower, upper, plan.rounding)
        if output_scale is not None:
            scale, zero_point = output_scale, output_zero_point
        if zero_point is not None:
            integer.sub_(zero_point)
        return integer.mul_(scale).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, scale, zero_point, lower, upper, plan, *output_grid = inputs
        ctx.plan = plan
        ctx.numbers = tuple(None if isinstance(b, Tensor) else b for b in (lower, upper))
        tensors = [b if isinstance(b, Tensor) else None for b in (zero_point, lower, upper)]
        tensors += output_grid
        only_x = not any(ctx.needs_input_grad[1:5]) and output_grid[0] is None
        if only_x and plan.clamp_passes_gradient and not plan.rectifies:
            ctx.save_for_backward(None, None, *tensors)
        else:
            ctx.save_for_backward(x, scale, *tensors)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, ...]:
        grad = grad_outputs[0]
        x, scale, zero_point, lower, upper, *output_grid = ctx.saved_tensors
        if x is None:
            return grad, None, None, None, None, None, None, None
        lower = ctx.numbers[0] if lower is None else lower
        upper = ctx.numbers[1] if upper is None else upper
        operands = Operands(x, scale, zero_point, lower, upper, *output_grid)
        needs = (*ctx.needs_input_grad[:5], *ctx.needs_input_grad[6:])
        grads = input_gradients(grad, operands, ctx.plan, needs)
        return (*grads[:5], None, *grads[5:])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        """Run on whole batches."""
        return _FakeQuantFn.apply(*batch_first(info, in_dims, inputs)), 0


def fake_quant(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    lower: Bound,
    upper: Bound,
    plan: FakeQuantPlan,
    output_scale: Tensor | None = None,
    output_zero_point: Tensor | None = None,
) -> Tensor:
    """Quantize and dequantize in one differentiable operation.

    ``y = (clamp(round(x / scale + zero_point), lower, upper) - zero_point) * scale`` with the
    straight-through gradient for the rounding. Half-precision inputs are computed in float32
    and rounded once at the end. With an ``output_scale``, that and ``output_zero_point`` take
    the place of ``scale`` and ``zero_point`` on the right.

    Args:
        x: real values, any shape; integers are taken as real values of the scale's dtype.
        scale: real value of one integer step, broadcastable to ``x``.
        zero_point: integer that stands for zero, broadcastable to ``x``; None means zero.
        lower: smallest integer, a number or a 0-d tensor (then it receives a gradient).
        upper: largest integer, a number or a 0-d tensor (then it receives a gradient).
        plan: rounding mode and gradient of the clamp.
        output_scale: real value of one integer step of the result, if another than ``scale``.
        output_zero_point: integer that stands for zero in the result, beside an ``output_scale``;
            None means zero.

    Returns:
        Tensor of the shape and dtype of ``x``, on the grid ``(integer - zero_point) * scale``.

    Example:
        >>> x, scale = torch.tensor([0.26, -9.0]), torch.tensor(0.5)
        >>> fake_quant(x, scale, None, -8, 7, FakeQuantPlan())
        tensor([ 0.5000, -4.0000])
        >>> fake_quant(x, scale, None, -8, 7, FakeQuantPlan(), output_scale=torch.tensor(1.0))
        tensor([ 1., -8.])

    Reference: Esser et al., "Learned Step Size Quantization", 2020 (gradient for the scale);
    Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons", 2013.
    """
    x = x if x.is_floating_point() else x.to(scale.dtype)
    operands = (x, scale, zero_point, lower, upper)
    output_grid = (output_scale, output_zero_point)
    if not needs_autograd((*operands, *output_grid)):
        return _FakeQuantFn.forward(*operands, plan, *output_grid)
    return _FakeQuantFn.apply(*operands, plan, *output_grid)
