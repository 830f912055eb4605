"""A function of tensors whose forward and backward are one compiled kernel each. Layer: ops (L1).

A region saves its inputs for the backward pass and nothing else. Its kernels, which `_kernel.py`
compiles, serve tensors of every size; a gradient of a gradient is computed without them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from brevitas.ops._elementwise import is_plain_eager
from brevitas.ops._kernel import Kernel, KernelCache, Program, compiler_works, gradients_of
from brevitas.ops.layout import Layout
from brevitas.utils.autograd import DirectFunction

__all__ = ["Program", "Region", "can_run_region", "compiler_works", "runs_eagerly"]

Parameters = tuple[Tensor | None, ...]


def runs_eagerly(x: Tensor) -> bool:
    """Whether a call on ``x`` runs as plain eager code that nobody else looks into.

    Under ``torch.compile``, ``torch.export``, ``torch.jit.trace``, ``torch.func`` and modes of
    ``__torch_function__`` or ``__torch_dispatch__``, those need to see plain operations.

    Example:
        >>> runs_eagerly(torch.ones(2))
        True
    """
    return (
        is_plain_eager(x)
        and x.is_floating_point()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._len_torch_function_stack() == 0
        and not (x.is_meta or x.is_neg())
    )


def can_run_region(x: Tensor) -> bool:
    """Whether a call on ``x`` may run compiled: plain eager execution, and a compiler that works.

    Example:
        >>> can_run_region(torch.ones(2))
        True
    """
    return compiler_works() and runs_eagerly(x)


class Region:
    """A program, and the kernels compiled for it: one for each layout, dtype, device and gradient.

    Args:
        program: a pure function ``(x, *parameters) -> (y, *further)``. ``x`` and ``y`` have the
            layout's shape; a parameter or further output is one number or one per channel, a
            parameter may be None. It branches on shapes at most, never on values.

    Example:
        >>> scaled = Region(lambda x, scale: (x * scale, scale.abs()))
        >>> scaled.kernels_compiled
        0
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self._cache = KernelCache(program)

    @property
    def kernels_compiled(self) -> int:
        """Number of kernels that were compiled so far."""
        return self._cache.kernels_compiled

    def __call__(
        self,
        layout: Layout,
        shapes: tuple[torch.Size, ...],
        x: Tensor,
        *parameters: Tensor | None,
    ) -> tuple[Tensor, ...] | None:
        """Run the program.

        Args:
            layout: view of ``x`` that the shapes of all parameters allow.
            shapes: shape of each further output.
            x: first argument of the program.
            *parameters: its further arguments.

        Returns:
            What the program returns; None where it cannot be compiled.
        """
        if any(p is not None and type(p) not in (Tensor, torch.nn.Parameter) for p in parameters):
            return None
        needs = tuple(t is not None and t.requires_grad for t in (x, *parameters))
        arguments = _flat_arguments(layout, x, parameters)
        given = tuple(p is not None for p in parameters)
        forward = self._cache.forward(layout.kind, given, arguments)
        if forward is None:
            return None
        if not (torch.is_grad_enabled() and any(needs)):
            return _run_forward(forward, layout, shapes, arguments)
        # Compiled before it is needed: a backward pass is no place to compile in.
        backward = self._cache.backward(layout.kind, given, arguments, needs)
        if backward is None:
            return None
        call = _Call(self.program, layout, shapes, forward, *backward, needs)
        return _RegionFn.apply(call, x, *parameters)


class _Call(NamedTuple):
    """One call of a region, for its backward pass."""

    program: Program
    layout: Layout
    shapes: tuple[torch.Size, ...]
    forward: Kernel
    backward: Kernel
    depends: tuple[bool, ...]
    needs: tuple[bool, ...]

    def gradients(
        self, x: Tensor, parameters: Parameters, grads: tuple[Tensor, ...]
    ) -> tuple[Tensor | None, ...]:
        """Gradient of each tensor that needs one, None for the others."""
        if torch.is_grad_enabled():  # a gradient of the gradient is asked for
            return self._differentiable_gradients(x, parameters, grads)
        layout = self.layout
        grad_y, *further = (grad.detach() for grad in grads)
        flat_grads = (layout.flatten(grad_y), *map(layout.flatten_channels, further))
        found = iter(self.backward(*_flat_arguments(layout, x, parameters), *flat_grads))
        grad_x = layout.restore(next(found)) if self.needs[0] else None
        pairs = zip(parameters, self.needs[1:], strict=True)
        views = (next(found).view(p.shape) if p is not None and n else None for p, n in pairs)
        return grad_x, *views

    def _differentiable_gradients(
        self, x: Tensor, parameters: Parameters, grads: tuple[Tensor, ...]
    ) -> tuple[Tensor | None, ...]:
        layout = self.layout
        # Nodes of their own: one argument may be computed from another, and autograd adds that.
        own_x = x.view_as(x)
        own = [None if p is None else p.view_as(p) for p in parameters]
        flat = [None if p is None else layout.flatten_channels(p) for p in own]
        y, *further = self.program(layout.flatten(own_x), *flat)
        outputs = [layout.restore(y), *further]
        shaped = [grad.view(output.shape) for grad, output in zip(grads, outputs, strict=True)]
        wanted = [t for t, needed in zip((own_x, *own), self.needs, strict=True) if needed]
        found = iter(gradients_of(outputs, wanted, shaped, create_graph=True))
        return tuple(next(found) if needed else None for needed in self.needs)


def _flat_arguments(layout: Layout, x: Tensor, parameters: Parameters) -> list[Tensor]:
    """The program's arguments as the kernels take them: contiguous, without the absent ones."""
    present = (p.detach() for p in parameters if p is not None)
    return [layout.flatten(x.detach()), *map(layout.flatten_channels, present)]


def _run_forward(
    kernel: Kernel, layout: Layout, shapes: tuple[torch.Size, ...], arguments: list[Tensor]
) -> tuple[Tensor, ...]:
    with torch.no_grad():
        y, *further = kernel(*arguments)
        # No views, so that the caller may write to them as to any result of an operation.
        pairs = zip(further, shapes, strict=True)
        return layout.restore_owned(y), *(torch.ops.aten._unsafe_view(f, s) for f, s in pairs)


class _RegionFn(DirectFunction):
    """Compiled forward, compiled backward; the inputs are all that is saved."""

    @staticmethod
    def forward(ctx: Any, call: _Call, x: Tensor, *parameters: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.call = call
        ctx.save_for_backward(x, *parameters)
        arguments = _flat_arguments(call.layout, x, parameters)
        outputs = _run_forward(call.forward, call.layout, call.shapes, arguments)
        constant = (o for o, depends in zip(outputs, call.depends, strict=True) if not depends)
        ctx.mark_non_differentiable(*constant)
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        x, *parameters = ctx.saved_tensors
        return None, *ctx.call.gradients(x, tuple(parameters), grads)
