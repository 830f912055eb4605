"""The one fake-quantization operation under every affine integer quantizer. Layer: ops (L1).

    integer = clamp(round(x / scale + zero_point), lower, upper)
    y       = (integer - zero_point) * scale

Integers found on one grid may be placed on another, with an output scale and zero point.
It reads ``x`` once, saves at most ``x`` for the backward pass and recomputes the rest there, so a
quantized tensor costs about as much as a ReLU on it instead of a chain of ten saved intermediates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from brevitas.function.ops import dpu_round
from brevitas.ops._elementwise import batch_first, is_expandable, needs_autograd, reduced_to
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

#: Rounding mode -> function on real values; the names are those of the QONNX specification.
ROUNDING_MODES: dict[str, Callable[[Tensor], Tensor]] = {
    "ROUND": torch.round,
    "CEIL": torch.ceil,
    "FLOOR": torch.floor,
    "ROUND_TO_ZERO": torch.trunc,
    "DPU": dpu_round,
}
#: The same on tensors that may be overwritten.
IN_PLACE_ROUNDING: dict[str, Callable[[Tensor], Tensor]] = {
    "ROUND": torch.Tensor.round_,
    "CEIL": torch.Tensor.ceil_,
    "FLOOR": torch.Tensor.floor_,
    "ROUND_TO_ZERO": torch.Tensor.trunc_,
    "DPU": dpu_round,
}

Bound = Tensor | float


@dataclass(frozen=True)
class FakeQuantPlan:
    """How one quantizer rounds and clamps: all that the fused operation needs besides tensors.

    Args:
        rounding: one of ``ROUNDING_MODES``.
        clamp_passes_gradient: True where clamped elements still pass their gradient to ``x``
            (straight-through clamp), False where they pass it to the bound instead.
    """

    rounding: str = "ROUND"
    clamp_passes_gradient: bool = False


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
        return _clamp_by_tensors(integer, lower, upper)
    return integer.clamp_(lower, upper)


def _clamp_by_tensors(integer: Tensor, lower: Bound, upper: Bound) -> Tensor:
    lower, upper = (torch.as_tensor(bound).to(integer) for bound in (lower, upper))
    return torch.clamp(integer, lower, upper)


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
        if only_x and plan.clamp_passes_gradient:
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


class _StraightThrough(DirectFunction):
    """Rounded value forward, identity backward: keeps the backward pass differentiable."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, rounding: str) -> Tensor:
        return ROUNDING_MODES[rounding](x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        return None

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, None]:
        return grad_outputs[0], None


class Operands(NamedTuple):
    """The tensors and limits of one call, in the order of the operation's arguments."""

    x: Tensor
    scale: Tensor
    zero_point: Tensor | None
    lower: Bound
    upper: Bound
    output_scale: Tensor | None = None
    output_zero_point: Tensor | None = None

    def clamp(self, integer: Tensor) -> Tensor:
        """Clamp integers to the limits, without writing to them."""
        if isinstance(self.lower, Tensor) or isinstance(self.upper, Tensor):
            return _clamp_by_tensors(integer, self.lower, self.upper)
        return integer.clamp(self.lower, self.upper)


def input_gradients(
    grad: Tensor, operands: Operands, plan: FakeQuantPlan, needs: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Gradients for the operands, each reduced to its input's shape.

    With ``[.]`` one where a condition holds: ``d y / d x = [not clamped]``,
    ``d y / d scale = (integer - zero_point) - [not clamped] * x / scale``,
    ``d y / d zero_point = -[clamped] * scale``, ``d y / d bound = [clamped there] * scale``;
    a clamp that passes gradients counts as not clamped.
    """
    x, scale, zero_point, lower, upper, output_scale, _ = operands
    grad, ratio = widened(grad), widened(x) / scale
    shifted = ratio if zero_point is None else ratio + zero_point
    differentiable = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    round_ = _StraightThrough.apply if differentiable else _round
    rounded = round_(shifted, plan.rounding)
    passes = plan.clamp_passes_gradient
    integer = operands.clamp(rounded)
    # NaN counts as clamped; None where no element counts as such.
    clamped = None if passes else integer.ne(rounded)
    if passes and differentiable:
        integer = rounded + (integer - rounded).detach()
    step = scale if output_scale is None else output_scale
    bounds: list[Tensor | None] = [None, None]
    for index, bound in enumerate((lower, upper)):
        if needs[3 + index] and not passes and isinstance(bound, Tensor):
            beyond = rounded < bound if index == 0 else rounded > bound
            bounds[index] = reduced_to(bound, (grad * step).masked_fill(~beyond, 0.0))
    found = (grad, clamped, ratio, integer, operands, needs)
    if output_scale is None:
        return (*_grid_gradients(*found), *bounds, None, None)
    *grads, of_scale, of_zero_point = _two_grid_gradients(*found)
    return (*grads, *bounds, of_scale, of_zero_point)


def _grid_gradients(
    grad: Tensor,
    clamped: Tensor | None,
    ratio: Tensor,
    integer: Tensor,
    operands: Operands,
    needs: tuple[bool, ...],
) -> list[Tensor | None]:
    """Gradients for ``x``, scale and zero point; ``clamped`` is None where none counts as such."""
    x, scale, zero_point, *_ = operands
    grads: list[Tensor | None] = [None] * 3
    if needs[0]:
        grads[0] = _where_not(clamped, grad).to(x.dtype)
    if needs[1]:
        steps = integer if zero_point is None else integer - zero_point
        grads[1] = reduced_to(scale, grad * (steps - _where_not(clamped, ratio)))
    if needs[2] and zero_point is not None:
        outside = torch.zeros_like(grad, dtype=torch.bool) if clamped is None else clamped
        grads[2] = reduced_to(zero_point, (-grad * scale).masked_fill(~outside, 0.0))
    return grads


def _two_grid_gradients(
    grad: Tensor,
    clamped: Tensor | None,
    ratio: Tensor,
    integer: Tensor,
    operands: Operands,
    needs: tuple[bool, ...],
) -> list[Tensor | None]:
    """Gradients for ``x``, the scale and zero point of the integers, and those of the output."""
    x, scale, zero_point, _, _, output_scale, output_zero_point = operands
    assert output_scale is not None
    of_integer = _where_not(clamped, grad * output_scale)
    grads: list[Tensor | None] = [None] * 5
    if needs[0]:
        grads[0] = (of_integer / scale).to(x.dtype)
    if needs[1]:
        grads[1] = reduced_to(scale, -of_integer * (ratio / scale))
    if needs[2] and zero_point is not None:
        grads[2] = reduced_to(zero_point, of_integer)
    if needs[5]:
        steps = integer if output_zero_point is None else integer - output_zero_point
        grads[3] = reduced_to(output_scale, grad * steps)
    if needs[6] and output_zero_point is not None:
        grads[4] = reduced_to(output_zero_point, -grad * output_scale)
    return grads


def _where_not(mask: Tensor | None, values: Tensor) -> Tensor:
    return values if mask is None else values.masked_fill(mask, 0.0)


def _round(x: Tensor, rounding: str) -> Tensor:
    return ROUNDING_MODES[rounding](x)


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
