"""Gradients of the fake-quantization operation on a CPU, block by block. Layer: ops (L1).

Blocks are worked on in scratch memory that stays in the cache of a core, and each gradient is
written once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import isnan

import torch
from torch import Tensor

from brevitas.ops._blocks import Blocks, layout_for_blocks, memory_like
from brevitas.ops._elementwise import is_expandable, is_plain_eager, reduced_to
from brevitas.ops._operands import FakeQuantPlan, Operands

__all__ = ["block_gradients"]

# Roundings that write to memory that is given, by their names in the QONNX specification.
_ROUNDING: dict[str, Callable[..., Tensor]] = {
    "ROUND": torch.round,
    "CEIL": torch.ceil,
    "FLOOR": torch.floor,
    "ROUND_TO_ZERO": torch.trunc,
}
# Zero where the second tensor lies outside of two numbers, elsewhere the first.
_inside = torch.ops.aten.hardtanh_backward.default
_inside_out = torch.ops.aten.hardtanh_backward.grad_input

#: Gradients for ``x``, scale and zero point; None for each that is not asked for.
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


@lru_cache
def _next_outside(lower: float, upper: float, dtype: torch.dtype) -> tuple[float, float]:
    """The numbers next to a range, outside of it: integers between them are not clamped."""
    ends = torch.tensor([lower, upper], dtype=dtype, device="cpu")
    beyond = torch.tensor([-torch.inf, torch.inf], dtype=dtype, device="cpu")
    smallest, largest = torch.nextafter(ends, beyond).tolist()
    return smallest, largest


def block_gradients(
    grad: Tensor, operands: Operands, plan: FakeQuantPlan, needs: tuple[bool, ...]
) -> Gradients | None:
    """Gradients by the equations of ``input_gradients``.

    Args:
        grad: gradient of the result, not in half precision.
        operands: those of the operation, ``x`` not in half precision.
        plan: rounding and clamp.
        needs: which of ``x``, scale and zero point need a gradient.

    Returns:
        The gradients; None where other code has to find them: with limits that are tensors, on
        other devices, under a tracer, for a gradient of a gradient, or where there may be a NaN,
        which PyTorch's mask does not treat alike everywhere.

    Example:
        >>> operands = Operands(torch.tensor([0.6, 9.0]), torch.tensor(0.5), None, -4.0, 3.0)
        >>> with torch.no_grad():  # as in a backward pass
        ...     block_gradients(torch.ones(2), operands, FakeQuantPlan(), (True, True, False))
        (tensor([1., 0.]), tensor(2.8000), None)
    """
    if not _is_served(grad, operands, plan):
        return None
    work = _Block(operands, plan, needs)
    parameters = (operands.scale, operands.zero_point)
    pieces = _pieces(grad, operands, plan)
    if pieces is None:
        grad_x = work.run(grad, operands.x, None, *parameters)
        of_scale, of_zero_point = (parts[0] if parts else None for parts in work.found)
    else:
        grad_x, blocks = pieces
        for block in blocks:
            work.run(*block)
        of_scale, of_zero_point = (
            _joined(parts, blocks.by_row, parameter)
            for parts, parameter in zip(work.found, parameters, strict=True)
        )
    if any(isnan(part) for part in work.checked):
        return None
    return grad_x if needs[0] else None, of_scale, of_zero_point


def _is_served(grad: Tensor, operands: Operands, plan: FakeQuantPlan) -> bool:
    x, scale, zero_point, lower, upper, output_scale, _ = operands
    if isinstance(lower, Tensor) or isinstance(upper, Tensor) or output_scale is not None:
        return False
    if plan.rounding not in _ROUNDING or (plan.clamp_passes_gradient and plan.rectifies):
        return False
    tensors = (grad, x, scale) if zero_point is None else (grad, x, scale, zero_point)
    if torch.is_grad_enabled() or not all(is_plain_eager(tensor) for tensor in tensors):
        return False
    is_dense = x.device.type == "cpu" and grad.layout is torch.strided
    return is_dense and (zero_point is None or is_expandable(zero_point, x))


def _pieces(grad: Tensor, operands: Operands, plan: FakeQuantPlan) -> tuple[Tensor, Blocks] | None:
    """Memory for the gradient of ``x``, and blocks of ``grad``, ``x``, that memory and parameters.

    None for tensors that are worked on as a whole.
    """
    x, *parameters = operands[:3]
    layout = layout_for_blocks(x, *parameters)
    if layout is None:
        return None
    grad_x = grad if plan.clamp_passes_gradient else memory_like(x, layout)
    return grad_x, Blocks(layout, (grad, x, grad_x), parameters)


def _joined(parts: list[Tensor], by_row: bool, parameter: Tensor | None) -> Tensor | None:
    """The gradient of a parameter: what the blocks found, one after the other or added up."""
    if parameter is None or not parts:
        return None
    has_rows = by_row and parts[0].dim() > 0
    total = torch.cat(parts) if has_rows else torch.stack(parts).sum(0)
    return total.reshape(parameter.shape)


class _Block:
    """Works on one block after the other, in the same scratch memory.

    Attributes:
        found: for scale and zero point, what each block adds to their gradients.
        checked: sums that are NaN where a value is.
    """

    def __init__(self, operands: Operands, plan: FakeQuantPlan, needs: tuple[bool, ...]) -> None:
        assert not isinstance(operands.lower, Tensor) and not isinstance(operands.upper, Tensor)
        self.limits = (operands.lower, operands.upper)
        self.outside = _next_outside(*self.limits, operands.x.dtype)
        self.round, self.rectifies = _ROUNDING[plan.rounding], plan.rectifies
        self.passes, self.needs = plan.clamp_passes_gradient, needs
        self.ratio: Tensor | None = None
        self.integer: Tensor | None = None
        self.found: tuple[list[Tensor], list[Tensor]] = ([], [])
        self.checked: list[Tensor] = []

    def run(
        self,
        grad: Tensor,
        x: Tensor,
        grad_x: Tensor | None,
        scale: Tensor,
        zero_point: Tensor | None,
    ) -> Tensor:
        """Return the gradient of a block of ``x``, and keep what it adds to the others."""
        ratio, integer = self._rounded(x, scale, zero_point)
        grad_x = self._masked(grad, integer, grad_x)
        if not (self.passes or self.needs[1]):
            self.checked.append(integer.sum())
        if self.needs[1]:
            if not self.passes:
                _inside_out(ratio, integer, *self.outside, grad_input=ratio)
            steps = integer.clamp_(*self.limits)
            steps = steps if zero_point is None else steps.sub_(zero_point)
            self._keep(0, steps.sub_(ratio), grad, scale)
        if self.needs[2] and zero_point is not None:
            # The gradient of what is clamped, which did not go to x.
            clamped = torch.sub(grad_x, grad, out=integer)
            self._keep(1, clamped, scale, zero_point)
        return grad_x

    def _masked(self, grad: Tensor, integer: Tensor, grad_x: Tensor | None) -> Tensor:
        """The gradient where nothing is clamped, zero elsewhere, in memory that may be given."""
        if self.passes:
            return grad
        if grad_x is None:
            return _inside(grad, integer, *self.outside)
        return _inside_out(grad, integer, *self.outside, grad_input=grad_x)

    def _rounded(
        self, x: Tensor, scale: Tensor, zero_point: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The ratio to the scale, and the integer before it is clamped, in scratch memory."""
        ratio = self.ratio = torch.div(x, scale, out=_start(self.ratio, x))
        if self.rectifies:
            torch.threshold_(ratio, 0.0, self.limits[0] - 1.0)
        if zero_point is None:
            integer = self.round(ratio, out=_start(self.integer, x))
        else:
            integer = torch.add(ratio, zero_point, out=_start(self.integer, x))
            integer = self.round(integer, out=integer)
        self.integer = integer
        return ratio, integer

    def _keep(self, index: int, terms: Tensor, factor: Tensor, parameter: Tensor) -> None:
        """Keep a sum of products, in the shape of the parameter; overwrites the terms."""
        if terms.dim() == factor.dim() == 1 and parameter.dim() == 0:
            product = torch.dot(factor, terms)
        else:
            product = reduced_to(parameter, terms.mul_(factor))
        self.found[index].append(product.clone() if product is terms else product)
        if index == 0 and not self.passes:
            self.checked.append(product if product.dim() == 0 else product.sum())


def _start(memory: Tensor | None, x: Tensor) -> Tensor | None:
    """Scratch memory of the size of a block; None where there is none yet."""
    return memory if memory is None or len(memory) == len(x) else memory[: len(x)]
