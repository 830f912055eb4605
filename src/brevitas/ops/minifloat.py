"""The fused operation under minifloat quantizers. Layer: ops (L1).

    u    = x / scale
    step = 2**max(floor(log2|u|) - mantissa bits, smallest exponent of a step)
    y    = clamp(round(u / step) * step, lower, upper) * scale

It saves ``x`` and ``scale`` for the backward pass and recomputes the rest there.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor

from brevitas.ops._elementwise import batch_first, is_expandable, needs_autograd, reduced_to
from brevitas.ops.fake_quant import IN_PLACE_ROUNDING
from brevitas.utils.autograd import DirectFunction
from brevitas.utils.torch_utils import leading_power, widened

__all__ = ["MinifloatPlan", "minifloat_quant", "overflow_to", "to_minifloat"]


@dataclass(frozen=True)
class MinifloatPlan:
    """A minifloat format, and how one quantizer rounds to it and limits values to its range.

    Args:
        mantissa_bit_width: stored bits of the mantissa.
        smallest_step: exponent of the step between subnormal numbers, ``1 - bias - mantissa bits``.
        lower: smallest finite value, in units of the scale.
        upper: largest finite value, in units of the scale.
        rounding: one of ``brevitas.ops.fake_quant.ROUNDING_MODES``.
        clamp_passes_gradient: True where clamped elements still pass their gradient to ``x``.
        above: what stands for values beyond ``upper``: infinity, NaN, or None for ``upper``.
        below: what stands for values beyond ``lower``.
    """

    mantissa_bit_width: int
    smallest_step: int
    lower: float
    upper: float
    rounding: str = "ROUND"
    clamp_passes_gradient: bool = False
    above: float | None = None
    below: float | None = None

    def range_in(self, dtype: torch.dtype) -> tuple[float, float]:
        """Smallest and largest finite value; infinite where the dtype ends before the format."""
        if self.upper <= torch.finfo(dtype).max:
            return self.lower, self.upper
        return (-inf if self.lower else 0.0), inf


class _Rounded(NamedTuple):
    """Values in units of the scale, and what they are rounded to with the whole exponent range."""

    ratio: Tensor
    power: Tensor
    value: Tensor


def _round(x: Tensor, scale: Tensor, plan: MinifloatPlan) -> _Rounded:
    ratio = widened(x) / scale
    power = leading_power(ratio)
    # No step below the smallest number there is: all numbers are multiples of that one.
    limits = torch.finfo(ratio.dtype)
    smallest = max(2.0**plan.smallest_step, limits.tiny * limits.eps)
    step = (power * 2.0**-plan.mantissa_bit_width).clamp_(min=smallest)
    return _Rounded(ratio, power, IN_PLACE_ROUNDING[plan.rounding](ratio / step).mul_(step))


def overflow_to(x: Tensor, beyond: Tensor, code: float | None) -> Tensor:
    """Write the code of infinity or NaN where values lie beyond a limit; None leaves them.

    Args:
        x: values, limited.
        beyond: where they were beyond, booleans of the shape of ``x``.
        code: what stands for them.

    Example:
        >>> x = torch.tensor([448.0, 1.0])
        >>> overflow_to(x, torch.tensor([True, False]), float("nan"))
        tensor([nan, 1.])
    """
    return x if code is None else torch.where(beyond, code, x)


def _limited(value: Tensor, plan: MinifloatPlan) -> Tensor:
    """Apply the limits of the range, without writing to ``value``."""
    lower, upper = plan.range_in(value.dtype)
    limited = overflow_to(value.clamp(lower, upper), value > upper, plan.above)
    return overflow_to(limited, value < lower, plan.below)


def to_minifloat(x: Tensor, scale: Tensor, plan: MinifloatPlan) -> Tensor:
    """Map real values to minifloats: ``clamp(round(x / scale / step) * step, lower, upper)``.

    Args:
        x: real values, any shape.
        scale: real value of 1, broadcastable to ``x``.
        plan: the format.

    Returns:
        Minifloats in a tensor of float32 or wider; NaN stays NaN.

    Example:
        >>> plan = MinifloatPlan(mantissa_bit_width=3, smallest_step=-9, lower=-480, upper=480)
        >>> to_minifloat(torch.tensor([17.0, 20.1, -900.0]), torch.tensor(1.0), plan)
        tensor([  16.,   20., -480.])
    """
    value = _round(x, scale, plan).value
    if plan.above is None and plan.below is None:
        return value.clamp_(*plan.range_in(value.dtype))
    return _limited(value, plan)


class _MinifloatFn(DirectFunction):
    """Fused forward in place, analytic backward from ``x`` and ``scale``."""

    @staticmethod
    def forward(x: Tensor, scale: Tensor, plan: MinifloatPlan) -> Tensor:
        return to_minifloat(x, scale, plan).mul_(scale).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, scale, plan = inputs
        ctx.plan = plan
        ctx.save_for_backward(x, scale)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, ...]:
        x, scale = ctx.saved_tensors
        grad = widened(grad_outputs[0])
        # Linear in the gradient: the factors are constant in x and scale, almost everywhere.
        with torch.no_grad():
            to_x, to_scale = _derivatives(x, scale, ctx.plan, *ctx.needs_input_grad[:2])
        grad_x = None if to_x is None else reduced_to(x, grad * to_x)
        return grad_x, None if to_scale is None else reduced_to(scale, grad * to_scale), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        """Run on whole batches."""
        return _MinifloatFn.apply(*batch_first(info, in_dims, inputs)), 0


def _derivatives(
    x: Tensor, scale: Tensor, plan: MinifloatPlan, needs_x: bool, needs_scale: bool
) -> tuple[Tensor | None, Tensor | None]:
    """``d y / d x`` and ``d y / d scale`` of each element, where they are needed.

    The step is proportional to ``u`` where it follows its exponent, and constant below. So with
    ``r`` for the rounded value before the limits, ``d r / d u`` is ``r / u`` there and 1 below.
    With ``v`` for the limited value and ``[.]`` one inside of the limits, or everywhere where
    the clamp passes gradients: ``d y / d x = [.] * dr/du``,
    ``d y / d scale = v - [.] * dr/du * u``.
    """
    ratio, power, rounded = _round(x, scale, plan)
    limited = _limited(rounded, plan)
    follows = power >= 2.0 ** (plan.smallest_step + plan.mantissa_bit_width)
    # Infinity and NaN pass no gradient in any case.
    beyond = limited - rounded
    stopped = beyond.isfinite().logical_not_() if plan.clamp_passes_gradient else beyond != 0
    slope = through = None
    if needs_x:
        slope = torch.where(follows, rounded / ratio, 1.0).masked_fill_(stopped, 0.0)
    if needs_scale:
        through = limited - torch.where(follows, rounded, ratio).masked_fill_(stopped, 0.0)
    return slope, through


def minifloat_quant(x: Tensor, scale: Tensor, plan: MinifloatPlan) -> Tensor:
    """Quantize to minifloats and dequantize, in one differentiable operation.

    ``y = clamp(round(x / scale / step) * step, lower, upper) * scale`` with a step that is a power
    of two, and the straight-through gradient for rounding and the exponent of the step. Half
    precision is computed in float32 and rounded once at the end.

    Args:
        x: real values, any shape; integers are taken as real values of the scale's dtype.
        scale: real value of 1, broadcastable to ``x``.
        plan: the format, and how values are rounded and limited to it.

    Returns:
        Tensor of the dtype of ``x``, of the shape in which ``x`` and ``scale`` broadcast.

    Example:
        >>> plan = MinifloatPlan(mantissa_bit_width=3, smallest_step=-9, lower=-480, upper=480)
        >>> minifloat_quant(torch.tensor([0.3, -900.0]), torch.tensor(0.5), plan)
        tensor([   0.3125, -240.0000])

    Reference: Kuzmin et al., "FP8 Quantization: The Power of the Exponent", 2022.
    """
    x = x if x.is_floating_point() else x.to(scale.dtype)
    if not is_expandable(scale, x):
        x = x.expand(torch.broadcast_shapes(x.shape, scale.shape))
    if not needs_autograd((x, scale)):
        return _MinifloatFn.forward(x, scale, plan)
    return _MinifloatFn.apply(x, scale, plan)
