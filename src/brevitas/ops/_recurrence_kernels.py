"""Compiles the step of a recurrence, forward and backward, as kernels that write into buffers.

Layer: ops (L1).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from brevitas.ops._kernel import Kernel, KernelCache, gradients_of
from brevitas.ops.recurrence import States

__all__ = ["ApartStep", "CompiledStep", "compiled_step"]

# Sizes to trace a step with, of which nothing is computed: batch and size of the state.
_BATCH, _SIZE = 127, 4111
_KERNELS: dict[Hashable, KernelCache] = {}


_StepProgram = Callable[[States, States, States, States], States]
#: A pure function ``(parameters, gates, states) -> states`` that takes the gates one by one.
ApartStep = Callable[[Sequence[Tensor], States, States], States]


class _Form(NamedTuple):
    """What all kernels of a step have in common."""

    kind: Hashable
    step: ApartStep
    gates: int
    states: int
    #: The step's parameters, contiguous.
    parameters: Sequence[Tensor]
    #: A tensor of the dtype and device of gates and states.
    like: Tensor

    def kernel(
        self, role: Hashable, program: _StepProgram, gates: int, states: int
    ) -> Kernel | None:
        """A kernel of gates and states, of parameters, and of further tensors.

        Args:
            role: tells the program from those of the same kind.
            program: takes ``(gates, states, parameters, others)``, where each gate and each of the
                others is ``[batch, size]``.
            gates: how many of the others lie in a tensor as the gates do, side by side.
            states: how many more others there are.
        """
        wide, flat = (_BATCH, self.gates, _SIZE), (_BATCH, _SIZE)
        own = [tuple(parameter.shape) for parameter in self.parameters]
        others = 1 + self.states + len(own)
        shapes = [wide, *[flat] * self.states, *own, *[flat] * (gates + states)]
        values = [self.like] * len(shapes)
        values[1 + self.states : others] = self.parameters

        def flat_program(*arguments: Tensor) -> tuple[Tensor, ...]:
            split = 1 + self.states
            parts = (arguments[1:split], arguments[split:others], arguments[others:])
            return program(arguments[0].unbind(1), *parts)

        strides = {others + place: (self.gates * _SIZE, 1) for place in range(gates)}
        cache = _KERNELS.setdefault((self.kind, role), KernelCache(flat_program))
        return cache.of_shapes((self.gates, tuple(own)), shapes, values, strides)

    def forward(self) -> Kernel | None:
        """Writes the next states into its last arguments."""

        def program(gates: States, states: States, parameters: States, out: States) -> States:
            return _written(out, self.step(parameters, gates, states))

        return self.kernel("forward", program, 0, self.states)

    def backward(self) -> Kernel | None:
        """Takes the gradients of a step, and writes those of the step before."""
        count = self.gates

        def program(gates: States, states: States, parameters: States, others: States) -> States:
            of_gates, output, carried, *rest = others[:count], *others[count:]
            after, out = rest[: self.states - 1], rest[self.states - 1 :]
            adjoint = output + carried
            leaves = [tensor.detach().requires_grad_() for tensor in (*gates, *states[1:])]
            with torch.enable_grad():
                before = (states[0], *leaves[count:])
                results = self.step(parameters, tuple(leaves[:count]), before)
            found = gradients_of(results, leaves, (adjoint, *after), create_graph=False)
            return _written((*of_gates, *out), (*found[:count], adjoint, *found[count:]))

        return self.kernel("backward", program, count, 2 * self.states + 1)

    def of_parameters(self, needs: tuple[bool, ...]) -> Kernel | None:
        """Returns the gradients of all parameters that need one, of the states' gradients."""

        def program(gates: States, states: States, parameters: States, grads: States) -> States:
            pairs = zip(parameters, needs, strict=True)
            leaves = [tensor.detach().requires_grad_(need) for tensor, need in pairs]
            with torch.enable_grad():
                results = self.step(leaves, gates, states)
            wanted = [leaf for leaf in leaves if leaf.requires_grad]
            return gradients_of(results, wanted, grads, create_graph=False)

        return self.kernel(("parameters", needs), program, 0, self.states)


def _written(out: Sequence[Tensor], values: Sequence[Tensor]) -> tuple[Tensor, ...]:
    for target, value in zip(out, values, strict=True):
        target.copy_(value)
    return ()


class CompiledStep(NamedTuple):
    """The kernels of one step, on its parameters."""

    parameters: Sequence[Tensor]
    forward: Kernel
    backward: Kernel | None
    of_parameters: Kernel | None

    def write(self, gates: Tensor, states: States, out: States) -> None:
        """Compute the next states; see ``Recurrence.write``."""
        self.forward(gates, *states, *self.parameters, *out)

    def gradients(self, *arguments: Any) -> CompiledGradients:
        """Make the backward pass; see ``Recurrence.gradients``."""
        return CompiledGradients(self, *arguments)


class CompiledGradients:
    """The backward pass of a sequence; see ``StepGradients``."""

    def __init__(
        self,
        step: CompiledStep,
        recurrence: Any,
        parameters: Sequence[Tensor],
        needs: Sequence[bool],
        gates: Tensor,
        before: Sequence[Tensor],
    ) -> None:
        self.kernels = step
        self.parameters = [parameter.detach().contiguous() for parameter in parameters]
        self.needs = needs
        self.whole = (gates, *before)
        self.steps = list(zip(*(tensor.unbind(0) for tensor in self.whole), strict=True))

    def step(self, number: int, grads: States, after: States, out: States) -> None:
        """Go back by one step."""
        kernel = self.kernels.backward
        assert kernel is not None
        output, carried = grads
        given = (*out[0].unbind(1), output.contiguous(), carried, *after, *out[1:])
        kernel(*self.steps[number], *self.parameters, *given)

    def of_parameters(self, adjoints: States) -> list[Tensor | None]:
        """Gradients of all parameters, None for one that needs none."""
        kernel = self.kernels.of_parameters
        if kernel is None:
            return [None] * len(self.parameters)
        flat = [tensor.flatten(0, 1) for tensor in self.whole]
        found = iter(kernel(*flat, *self.parameters, *(a.flatten(0, 1) for a in adjoints)))
        return [next(found) if need else None for need in self.needs]


def compiled_step(
    kind: Hashable,
    step: ApartStep,
    gates: int,
    states: int,
    parameters: Sequence[Tensor],
    like: Tensor,
    needs: tuple[bool, ...] | None,
) -> CompiledStep | None:
    """A step that runs as one compiled kernel; None where it cannot be compiled.

    Args:
        kind: tells the step from all others but for its parameters.
        step: the step as a pure function that takes the gates one by one: a compiler would have
            to write and read what lies side by side.
        gates: number of gates side by side.
        states: number of states.
        parameters: tensors of the shapes, dtypes and devices of the step's parameters.
        like: a tensor of the dtype and device of gates and states.
        needs: which parameters need a gradient; None where there is no backward pass.
    """
    own = [parameter.detach().contiguous() for parameter in parameters]
    form = _Form(kind, step, gates, states, own, like)
    forward = form.forward()
    if forward is None or needs is None:
        return None if forward is None else CompiledStep(own, forward, None, None)
    # Compiled before it is needed: a backward pass is no place to compile in.
    backward = form.backward()
    of_parameters = form.of_parameters(needs) if any(needs) else None
    if backward is None or (any(needs) and of_parameters is None):
        return None
    return CompiledStep(own, forward, backward, of_parameters)
