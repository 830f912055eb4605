"""An activation function and a quantizer with their derivative found in the forward pass.

    y = fake_quant(f(x)),   dy = [not clamped] f'(x) dx + (y - [not clamped] f(x)) / scale dscale

Where one graph is differentiated several times, each backward pass is then a product, and the
gradients of the grid are only found where they are asked for. Layer: ops (L1).
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import torch
from torch import Tensor

from brevitas.ops._elementwise import reduced_to
from brevitas.ops.fake_quant import (
    Bound,
    FakeQuantPlan,
    Operands,
    input_gradients,
    to_integer,
)
from brevitas.utils.torch_utils import widened

__all__ = ["GridGradients", "linearized_fake_quant"]

Function = Callable[[Tensor], Tensor]

# Derivative of an activation function in terms of its result.
_DERIVATIVES: dict[Function, Function] = {
    torch.sigmoid: lambda y: y * (1 - y),
    torch.tanh: lambda y: 1 - y * y,
}


class GridGradients:
    """Says whether the backward pass at hand asks for the gradients of grids."""

    def __init__(self) -> None:
        self.wanted = False


class _LinearizedFn(torch.autograd.Function):
    """Saves the derivative; the input only for the gradients of the grid."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        shift: Tensor | None,
        lower: Bound,
        upper: Bound,
        function: Function | None,
        plan: FakeQuantPlan,
        asked: GridGradients,
    ) -> Tensor:
        activated = x if function is None else function(x)
        operands = Operands(activated, scale, shift, lower, upper)
        rounded = to_integer(activated, scale, shift, -inf, inf, plan.rounding)
        integer = operands.clamp(rounded)
        passes = None if plan.clamp_passes_gradient else integer.eq(rounded)
        y = integer.mul_(scale) if shift is None else integer.sub_(shift).mul_(scale)
        derivative = None if function is None else _DERIVATIVES[function](activated)
        if passes is not None:
            inside = passes.to(x.dtype)
            derivative = inside if derivative is None else derivative.mul_(inside)
        ctx.plan, ctx.asked, ctx.operands, ctx.derivative = plan, asked, operands, derivative
        wide = widened(activated)
        ctx.direct = y - (wide if passes is None else wide.masked_fill(~passes, 0.0))
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, ...]:
        grad, needs = grad_outputs[0], ctx.needs_input_grad
        to_x = None
        if needs[0]:
            to_x = grad if ctx.derivative is None else grad * ctx.derivative
        if not ctx.asked.wanted:
            return to_x, *[None] * 7
        to_scale, others = None, (None, None, None)
        if needs[1]:
            scale = ctx.operands.scale
            to_scale = reduced_to(scale, grad * ctx.direct) / scale
        if any(needs[2:5]):
            wanted = (False, False, *needs[2:5])
            others = input_gradients(grad, ctx.operands, ctx.plan, wanted)[2:]
        return to_x, to_scale, *others, None, None, None


def linearized_fake_quant(
    x: Tensor,
    scale: Tensor,
    shift: Tensor | None,
    lower: Bound,
    upper: Bound,
    function: Function | None,
    plan: FakeQuantPlan,
    asked: GridGradients,
) -> Tensor:
    """Return ``fake_quant(function(x), scale, shift, lower, upper, plan)``, once differentiable.

    Args:
        x: real values, any shape.
        scale: real value of one integer step, broadcastable to ``x``.
        shift: zero point, broadcastable to ``x``; None for zero.
        lower: smallest integer.
        upper: largest integer.
        function: ``torch.sigmoid``, ``torch.tanh``, or None for the identity.
        plan: rounding mode and gradient of the clamp.
        asked: whether a backward pass finds the gradients of scale, zero point and limits.

    Example:
        >>> x = torch.tensor([0.0, 9.0], requires_grad=True)
        >>> one, asked = torch.tensor(1.0), GridGradients()
        >>> y = linearized_fake_quant(x, one, None, -8, 7, None, FakeQuantPlan(), asked)
        >>> torch.autograd.grad(y.sum(), x)[0]
        tensor([1., 0.])
    """
    return _LinearizedFn.apply(x, scale, shift, lower, upper, function, plan, asked)
