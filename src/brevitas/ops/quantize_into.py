"""A fused quantizer that writes into a buffer, for loops that allocate nothing. Layer: ops (L1).

out = (clamp(round(f(x) / scale + zero_point), lower, upper) - zero_point) * scale
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from brevitas.ops.fake_quant import IN_PLACE_ROUNDING, Bound, FakeQuantPlan

__all__ = ["QuantizeGradients", "QuantizeInto", "quantize_into"]

# Functions that take ``out``, and the same on tensors that may be overwritten.
_WRITES: dict[Any, Callable[..., Tensor]] = {torch.sigmoid: torch.sigmoid, torch.tanh: torch.tanh}


class QuantizeInto(NamedTuple):
    """Operands in the shapes in which they are applied; see ``quantize_into``."""

    function: Callable[..., Tensor] | None
    scale: Tensor | None
    shift: Tensor | None
    lower: Bound
    upper: Bound
    round_: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor, out: Tensor) -> None:
        """Write the quantized activation of ``x``, outside of autograd.

        Args:
            x: real values; may be ``out``.
            out: a tensor of the same shape.
        """
        if self.function is not None:
            x = self.function(x, out=out)
        scale, shift = self.scale, self.shift
        if scale is None:
            if x is not out:
                out.copy_(x)
            return
        torch.div(x, scale, out=out)
        if shift is not None:
            out.add_(shift)
        self.round_(out)
        torch.clamp_(out, self.lower, self.upper)  # type: ignore[arg-type]
        if shift is not None:
            out.sub_(shift)
        out.mul_(scale)


def quantize_into(
    function: Callable[[Tensor], Tensor] | None,
    scale: Tensor | None,
    shift: Tensor | None,
    lower: Bound,
    upper: Bound,
    plan: FakeQuantPlan | None,
    like: Tensor,
    rows: int | None = None,
) -> QuantizeInto | None:
    """Prepare ``fake_quant(function(x), scale, shift, lower, upper, plan)`` for many calls.

    Args:
        function: ``torch.sigmoid``, ``torch.tanh``, or None for the identity.
        scale: real value of one integer step, one number or ``[n, 1]``; None to quantize nothing.
        shift: zero point, as the scale; None for zero.
        lower: smallest integer, a number or a tensor as the scale.
        upper: largest integer, as the smallest.
        plan: how it rounds.
        like: a tensor of the shape, dtype and device of each ``x``.
        rows: dimension of ``like`` that has ``n`` elements.

    Returns:
        A function of ``x`` and the tensor to write to; None where the values would need another
        dtype or shape.

    Example:
        >>> x, scale = torch.tensor([0.26, -9.0]), torch.tensor(0.5)
        >>> write = quantize_into(None, scale, None, -8, 7, FakeQuantPlan(), x)
        >>> write(x, x)
        >>> x
        tensor([ 0.5000, -4.0000])
    """
    if function not in (None, *_WRITES) or like.dtype not in (torch.float32, torch.float64):
        return None
    writes = None if function is None else _WRITES[function]
    if scale is None or plan is None:
        return QuantizeInto(writes, None, None, 0.0, 0.0, torch.Tensor.round_)
    if plan.rounding == "DPU":  # takes memory of its own
        return None
    if isinstance(lower, Tensor) or isinstance(upper, Tensor):
        lower, upper = (torch.as_tensor(b, device=like.device).to(scale) for b in (lower, upper))
    tensors = [field for field in (scale, shift, lower, upper) if isinstance(field, Tensor)]
    if not all(_fits(tensor, like, rows) for tensor in tensors):
        return None
    grid, zero, low, high = (_shaped(field, like, rows) for field in (scale, shift, lower, upper))
    return QuantizeInto(writes, grid, zero, low, high, IN_PLACE_ROUNDING[plan.rounding])


def _fits(operand: Tensor, like: Tensor, rows: int | None) -> bool:
    if operand.dtype != like.dtype or operand.device != like.device:
        return False
    return operand.numel() == 1 or (rows is not None and operand.shape == (like.shape[rows], 1))


def _shaped(operand: Any, like: Tensor, rows: int | None) -> Any:
    """One number without dimensions, or a number for each element: no broadcast is as fast."""
    if not isinstance(operand, Tensor):
        return operand
    operand = operand.detach()
    if operand.numel() == 1 or rows is None:
        return operand.reshape(())
    shape = [1] * like.dim()
    shape[rows] = operand.shape[0]
    return operand.reshape(shape).expand(like.shape).contiguous()


# Integers up to here have a neighbour half a step away in float32.
_LARGEST_LIMIT = 2**22
_BACKWARD: dict[Any, Callable[..., Tensor]] = {
    torch.sigmoid: torch.ops.aten.sigmoid_backward.grad_input,
    torch.tanh: torch.ops.aten.tanh_backward.grad_input,
}
_select = torch.ops.aten.hardtanh_backward.grad_input


class QuantizeGradients:
    """A prepared quantizer's values again, and its gradients, in buffers of its own.

        dx     = [not clamped] f'(x) dy
        dscale = sum (y - [not clamped] f(x)) / scale dy

    Args:
        write: a quantizer for which ``supports`` is true.
        like: a tensor of the shape of each input.
        sums: whether the gradient of the scale is found.

    Attributes:
        y: the buffer of the values; None where they are the input itself.

    Example:
        >>> x, scale = torch.tensor([0.26, -9.0]), torch.tensor(0.5)
        >>> write = quantize_into(None, scale, None, -8, 7, FakeQuantPlan(), x)
        >>> quantizer, grad = QuantizeGradients(write, x, sums=True), torch.ones(2)
        >>> quantizer.forward(x).tolist(), quantizer.backward(grad, torch.empty(2)).tolist()
        ([0.5, -4.0], [1.0, 0.0])
        >>> quantizer.of_scale(scale)
        tensor(-7.5200)
    """

    def __init__(self, write: QuantizeInto, like: Tensor, sums: bool) -> None:
        self.function, self.scale, _, lower, upper, self.round_ = write
        self.limits: tuple[Any, Any] = (lower, upper)
        self.between = (lower - 0.5, upper + 0.5)
        self.activated = None if self.function is None else like.new_empty(like.shape)
        self.y: Any = self.activated
        if self.scale is not None:
            self.y, self.integer, self.direct = (like.new_empty(like.shape) for _ in range(3))
        self.total = like.new_zeros(like.shape) if sums and self.scale is not None else None
        self.input = like

    @staticmethod
    def supports(write: QuantizeInto, plan: FakeQuantPlan | None) -> bool:
        """Whether the clamp is between small numbers, and takes gradients away beyond them."""
        if write.scale is None or plan is None:
            return True
        if write.shift is not None or plan.clamp_passes_gradient:
            return False
        limits = (write.lower, write.upper)
        return all(not isinstance(n, Tensor) and abs(n) <= _LARGEST_LIMIT for n in limits)

    def forward(self, x: Tensor) -> Tensor:
        """Return the quantized activation of ``x``, which stays as it is until ``backward``."""
        self.input = x if self.function is None else self.function(x, out=self.activated)
        if self.scale is None:
            return self.input
        self.round_(torch.div(self.input, self.scale, out=self.integer))
        torch.clamp(self.integer, *self.limits, out=self.y)
        return self.y.mul_(self.scale)

    def backward(self, grad: Tensor, out: Tensor) -> Tensor:
        """Write the gradient of the last input, and add up that of the scale.

        Args:
            grad: gradient of the values, broadcastable to them.
            out: where to write it; may be ``grad``.
        """
        if self.total is not None:
            kept = _select(self.input, self.integer, *self.between, grad_input=self.direct)
            self.total.addcmul_(grad, torch.sub(self.y, kept, out=kept))
        if self.scale is not None:
            grad = _select(grad, self.integer, *self.between, grad_input=out)
        if self.function is not None:
            return _BACKWARD[self.function](grad, self.activated, grad_input=out)
        return out if grad is out else out.copy_(grad)

    def of_scale(self, scale: Tensor) -> Tensor:
        """Gradient of the scale, of all inputs so far.

        Args:
            scale: the scale as it was given, one number or ``[n, 1]``.
        """
        assert self.total is not None
        if scale.numel() == 1:
            return self.total.sum().reshape(scale.shape) / scale
        return self.total.flatten(1).sum(1, keepdim=True) / scale
