"""Gradients of the fake-quantization operation on a CPU, block by block. Layer: ops (L1).

An operation on a large tensor writes to fresh memory, whose pages cost more time than arithmetic
does. Blocks of it are worked on in scratch memory that stays in the cache of a core, and
each gradient is written once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import repeat
from math import isnan
from typing import Any

import torch
from torch import Tensor

from brevitas.ops._elementwise import reduced_to
from brevitas.ops.layout import layout_of

__all__ = ["ROUNDING_OUT", "block_gradients"]

#: Roundings that write to memory that is given, by their names in the QONNX specification.
ROUNDING_OUT: dict[str, Callable[..., Tensor]] = {
    "ROUND": torch.round,
    "CEIL": torch.ceil,
    "FLOOR": torch.floor,
    "ROUND_TO_ZERO": torch.trunc,
}
# Elements of a block: what it needs fits into the cache of a core, and a call costs little beside.
BLOCK = 131072
# Zero where the second tensor lies outside of two numbers, elsewhere the first.
_inside = torch.ops.aten.hardtanh_backward.default
_inside_out = torch.ops.aten.hardtanh_backward.grad_input


@lru_cache
def _next_outside(lower: float, upper: float, dtype: torch.dtype) -> tuple[float, float]:
    """The numbers next to a range, outside of it: integers between them are not clamped."""
    ends = torch.tensor([lower, upper], dtype=dtype, device="cpu")
    beyond = torch.tensor([-torch.inf, torch.inf], dtype=dtype, device="cpu")
    smallest, largest = torch.nextafter(ends, beyond).tolist()
    return smallest, largest


def block_gradients(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    limits: tuple[float, float],
    rounding: str,
    needs: tuple[bool, ...],
    rectifies: bool = False,
    passes: bool = False,
) -> tuple[Tensor | None, Tensor | None, Tensor | None] | None:
    """Gradients for ``x``, scale and zero point, by the equations of ``input_gradients``.

    The mask of PyTorch's kernel does not treat all NaN alike: they are left to other code.

    Args:
        grad: gradient of the result, not in half precision.
        x: real values, in the shape of ``grad``.
        scale: real value of one integer step.
        zero_point: integer that stands for zero; None means zero.
        limits: smallest and largest integer.
        rounding: one of ``ROUNDING_OUT``.
        needs: which of the three are asked for.
        rectifies: whether values up to zero count as clamped.
        passes: whether clamped values pass their gradient all the same, which is ``grad`` then.

    Returns:
        The three gradients, None for each that is not asked for; None where there may be a NaN.

    Example:
        >>> x, scale = torch.tensor([0.6, 9.0]), torch.tensor(0.5)
        >>> block_gradients(torch.ones(2), x, scale, None, (-4, 3), "ROUND", (True, True, False))
        (tensor([1., 0.]), tensor(2.8000), None)
    """
    kind = _PassingBlock if passes else _Block
    work = kind(limits, ROUNDING_OUT[rounding], rectifies, needs, x.dtype)
    parameters = (scale, zero_point)
    pieces = _pieces(grad, x, parameters, passes)
    if pieces is None:
        grad_x = work.run(grad, x, None, *parameters)
        of_scale, of_zero_point = (parts[0] if parts else None for parts in work.found)
    else:
        grad_x, by_row, blocks = pieces
        for block in blocks:
            work.run(*block)
        of_scale, of_zero_point = (
            _joined(parts, by_row, parameter)
            for parts, parameter in zip(work.found, parameters, strict=True)
        )
    if any(isnan(part) for part in work.checked):
        return None
    return grad_x if needs[0] else None, of_scale, of_zero_point


def _pieces(
    grad: Tensor, x: Tensor, parameters: tuple[Tensor | None, ...], passes: bool
) -> tuple[Tensor, bool, Iterable[tuple[Any, ...]]] | None:
    """Split large tensors; None for those that are worked on as a whole.

    Returns:
        Memory for the gradient of ``x``; whether each block has channels of its own; and blocks of
        ``grad``, ``x``, that memory and the parameters.
    """
    most = BLOCK * torch.get_num_threads()
    if x.numel() <= most:
        return None
    layout = layout_of(x, *(p.shape for p in parameters if p is not None))
    if layout is None:
        return None
    has_gaps = layout.order is None and not x.is_contiguous()
    if passes:
        grad_x = grad
    elif has_gaps:
        grad_x = torch.empty(x.shape, dtype=x.dtype)
    else:
        grad_x = torch.empty_like(x)
    operands = [layout.flatten(tensor) for tensor in (grad, x, grad_x)]
    channels = [None if p is None else layout.flatten_channels(p) for p in parameters]
    size = max(1, most * layout.size[0] // x.numel())
    by_row = layout.kind in ("rows", "elements", "groups")
    split = (
        p.split(size) if p is not None and by_row and p.dim() > 0 else repeat(p) for p in channels
    )
    blocks = zip(*(tensor.split(size) for tensor in operands), *split, strict=False)
    return grad_x, by_row, blocks


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

    def __init__(
        self,
        limits: tuple[float, float],
        round_: Callable[..., Tensor],
        rectifies: bool,
        needs: tuple[bool, ...],
        dtype: torch.dtype,
    ) -> None:
        self.limits, self.outside = limits, _next_outside(*limits, dtype)
        self.round, self.rectifies, self.needs = round_, rectifies, needs
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
        if not self.needs[1]:
            self.checked.append(integer.sum())
        if grad_x is None:
            grad_x = _inside(grad, integer, *self.outside)
        else:
            _inside_out(grad, integer, *self.outside, grad_input=grad_x)
        assert grad_x is not None
        if self.needs[1]:
            _inside_out(ratio, integer, *self.outside, grad_input=ratio)
            steps = integer.clamp_(*self.limits)
            steps = steps if zero_point is None else steps.sub_(zero_point)
            self._keep(0, steps.sub_(ratio), grad, scale)
        if self.needs[2] and zero_point is not None:
            # The gradient of what is clamped, which did not go to x.
            clamped = torch.sub(grad_x, grad, out=integer)
            self._keep(1, clamped, scale, zero_point)
        return grad_x

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
        if index == 0:
            self.checked.append(product if product.dim() == 0 else product.sum())


class _PassingBlock(_Block):
    """Works on blocks of which no element counts as clamped: the gradient passes as it is."""

    def run(
        self,
        grad: Tensor,
        x: Tensor,
        grad_x: Tensor | None,
        scale: Tensor,
        zero_point: Tensor | None,
    ) -> Tensor:
        if self.needs[1]:
            ratio, integer = self._rounded(x, scale, zero_point)
            steps = integer.clamp_(*self.limits)
            steps = steps if zero_point is None else steps.sub_(zero_point)
            self._keep(0, steps.sub_(ratio), grad, scale)
        if self.needs[2] and zero_point is not None:
            self.found[1].append(torch.zeros_like(zero_point))
        return grad


def _start(memory: Tensor | None, x: Tensor) -> Tensor | None:
    """Scratch memory of the size of a block; None where there is none yet."""
    return memory if memory is None or len(memory) == len(x) else memory[: len(x)]
