"""Gradients of the fake-quantization operation. Layer: ops (L1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from brevitas.ops._block_gradients import block_gradients
from brevitas.ops._elementwise import reduced_to
from brevitas.ops._operands import ROUNDING_MODES, FakeQuantPlan, Operands
from brevitas.utils.autograd import DirectFunction
from brevitas.utils.torch_utils import widened

__all__ = ["input_gradients"]


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
    grad = widened(grad)
    found = block_gradients(grad, operands._replace(x=widened(x)), plan, needs)
    if found is not None:
        of_x, of_scale, of_zero_point = found
        of_x = None if of_x is None else of_x.to(x.dtype)
        return of_x, of_scale, of_zero_point, None, None, None, None
    ratio = widened(x) / scale
    shifted = ratio if zero_point is None else ratio + zero_point
    differentiable = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    round_ = _StraightThrough.apply if differentiable else _round
    rounded = round_(shifted, plan.rounding)
    passes = plan.clamp_passes_gradient
    integer = operands.clamp(rounded)
    # NaN counts as clamped; None where no element counts as such.
    clamped = None if passes else integer.ne(rounded)
    if plan.rectifies:
        negative = x <= 0
        clamped = negative if clamped is None else clamped | negative
        ratio = ratio.clamp_min(0)
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
