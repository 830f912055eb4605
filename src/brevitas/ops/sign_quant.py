"""The fused operation under binary and ternary quantizers. Layer: ops (L1).

    binary:  y = sign(x) * scale, with sign(0) = 1
    ternary: y = sign(x) * scale where |x| > threshold * scale, else 0

It saves at most ``x`` for the backward pass, nothing where no gradient depends on it, and
recomputes signs and masks there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from brevitas.function.ops import binary_sign
from brevitas.ops._elementwise import batch_first, is_expandable, needs_autograd, reduced_to
from brevitas.ops.autograd_ste_ops import binary_sign_ste_impl
from brevitas.utils.autograd import DirectFunction
from brevitas.utils.torch_utils import widened

__all__ = ["SignPlan", "sign_quant", "to_sign"]


@dataclass(frozen=True)
class SignPlan:
    """How one quantizer takes signs: all that the fused operation needs besides tensors.

    Args:
        threshold: where a ternary quantizer starts to differ from zero, in units of the scale;
            None for a binary quantizer, which has no zero.
        saturates: True where a binary quantizer clamps to ``[-scale, scale]`` first: elements
            beyond pass their gradient to the scale instead of to ``x``.
    """

    threshold: float | None = None
    saturates: bool = False


def to_sign(x: Tensor, scale: Tensor, threshold: float | None) -> Tensor:
    """Map real values to -1 and 1, or to 0 where ``|x| <= threshold * scale``.

    Args:
        x: real values, any shape.
        scale: real value of 1, positive.
        threshold: in units of the scale; None for signs alone.

    Returns:
        Integers in a float tensor of the shape in which ``x`` and ``scale`` broadcast; NaN stays
        NaN.

    Example:
        >>> x, scale = torch.tensor([-3.0, -0.2, 0.0, 0.3]), torch.tensor(0.5)
        >>> to_sign(x, scale, None), to_sign(x, scale, 0.5)
        (tensor([-1., -1.,  1.,  1.]), tensor([-1., -0.,  0.,  1.]))
    """
    wide = widened(x)
    if not is_expandable(scale, wide):
        wide = wide.expand(torch.broadcast_shapes(wide.shape, scale.shape))
    sign = binary_sign(wide)
    # Comparing in place makes ones and zeros, several times as fast as a mask of booleans.
    return sign if threshold is None else sign.mul_(wide.abs().gt_(threshold * scale))


class _SignQuantFn(DirectFunction):
    """Fused forward in place, analytic backward from ``x`` and ``scale``."""

    @staticmethod
    def forward(x: Tensor, scale: Tensor, plan: SignPlan) -> Tensor:
        return to_sign(x, scale, plan.threshold).mul_(scale).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, scale, plan = inputs
        ctx.plan = plan
        reads_x = ctx.needs_input_grad[1] or plan != SignPlan()
        ctx.save_for_backward(x if reads_x else None, scale)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, ...]:
        x, scale = ctx.saved_tensors
        grad = widened(grad_outputs[0])
        to_x = grad * scale
        if x is None:
            return to_x.to(grad_outputs[0].dtype), None, None
        grads: list[Tensor | None] = [None, None, None]
        wide = widened(x)
        if ctx.needs_input_grad[0]:
            grads[0] = _masked(to_x, wide, scale, ctx.plan).to(x.dtype)
        if ctx.needs_input_grad[1]:
            grads[1] = reduced_to(scale, _scale_gradient(grad, to_x, wide, scale, ctx.plan))
        return tuple(grads)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        """Run on whole batches."""
        return _SignQuantFn.apply(*batch_first(info, in_dims, inputs)), 0


def _masked(to_x: Tensor, x: Tensor, scale: Tensor, plan: SignPlan) -> Tensor:
    """Zero the gradient where the clamp or the threshold stops it; NaN counts as stopped."""
    if plan.saturates:
        return torch.where(x.abs() <= scale, to_x, 0.0)
    if plan.threshold is not None:
        return torch.where(x.abs() > plan.threshold * scale, to_x, 0.0)
    return to_x


def _scale_gradient(grad: Tensor, to_x: Tensor, x: Tensor, scale: Tensor, plan: SignPlan) -> Tensor:
    """``d y / d scale`` times ``grad``: the integer, and what a clamp to the scale passes on."""
    differentiable = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if not differentiable:
        integer = to_sign(x, scale, plan.threshold)
    else:
        # The same, with the derivative that the sign has for a second pass.
        integer = binary_sign_ste_impl(torch.clamp(x, -scale, scale) if plan.saturates else x)
        if plan.threshold is not None:
            integer = integer * (x.abs() > plan.threshold * scale)
    direct = grad * integer
    if not plan.saturates:
        return direct
    return direct + torch.where(x.abs() > scale, to_x * integer.detach(), 0.0)


def sign_quant(x: Tensor, scale: Tensor, plan: SignPlan) -> Tensor:
    """Quantize to two or three values and dequantize, in one differentiable operation.

    ``y = sign(x) * scale``, or 0 where ``|x| <= threshold * scale``, with the straight-through
    gradient for the sign: ``d y / d x = scale`` but for the elements that the plan stops. Half
    precision is computed in float32 and rounded once at the end.

    Args:
        x: real values, any shape; integers are taken as real values of the scale's dtype.
        scale: real value of 1, positive, broadcastable to ``x``.
        plan: two or three values, and which elements pass a gradient.

    Returns:
        Tensor of the dtype of ``x``, of the shape in which ``x`` and ``scale`` broadcast.

    Example:
        >>> x, scale = torch.tensor([-3.0, 0.0, 0.2]), torch.tensor(0.5)
        >>> sign_quant(x, scale, SignPlan())
        tensor([-0.5000,  0.5000,  0.5000])
        >>> sign_quant(x, scale, SignPlan(threshold=0.5))
        tensor([-0.5000,  0.0000,  0.0000])

    Reference: Hubara et al., "Binarized Neural Networks", 2016 (gradient inside of the range);
    Li et al., "Ternary Weight Networks", 2016 (threshold).
    """
    x = x if x.is_floating_point() else x.to(scale.dtype)
    if not needs_autograd((x, scale)):
        return _SignQuantFn.forward(x, scale, plan)
    return _SignQuantFn.apply(x, scale, plan)
