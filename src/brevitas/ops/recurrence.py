"""Runs a recurrence whose step works element by element on products of the state. Layer: ops (L1).

    gates_t  = projected_t + hidden_{t-1} @ weight.T
    states_t = step(gates_t, states_{t-1})

All but the product works element by element, so that the Jacobian of a step is diagonal. The
backward pass finds the diagonals of all steps at once, with autograd on the whole sequence, then
goes back step by step with a few products and one matrix product each, and finds the gradients of
all parameters at once again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from brevitas.ops._kernel import KernelCache
from brevitas.ops.linearized import GridGradients

__all__ = ["Recurrence", "compiled_step", "run_recurrence"]

States = tuple[Tensor, ...]
Step = Callable[[Sequence[Tensor], Tensor, States], States]


class Recurrence(NamedTuple):
    """What is computed at every step, and in which direction.

    Args:
        step: pure function ``(parameters, gates, states) -> states`` of gates ``[..., gates,
            size]`` and states ``[..., size]``, hidden state first, with any leading dimensions. An
            element of a state depends on the elements at its own place only, and on parameters.
        gates: number of gates side by side.
        reverse: whether it starts at the end of the sequence.
        eager_step: computes the same as ``step`` for one step outside of autograd; by default
            ``step`` itself.
        linearized: makes a step that computes the same with its derivatives found in the forward
            pass, and with gradients of parameters where these are asked for.
    """

    step: Step
    gates: int
    reverse: bool
    eager_step: Step | None = None
    linearized: Callable[[GridGradients], Step] | None = None

    def order(self, steps: int) -> range:
        """Places of the steps in the order in which they are computed."""
        return range(steps - 1, -1, -1) if self.reverse else range(steps)


# Sizes to trace a step with, of which nothing is computed: batch and size of the state.
_EXAMPLE_BATCH, _EXAMPLE_SIZE = 127, 4111
_KERNELS: dict[Hashable, KernelCache] = {}


def compiled_step(
    kind: Hashable,
    step: Step,
    gates: int,
    states: int,
    parameters: Sequence[Tensor],
    like: Tensor,
) -> Step | None:
    """A step that runs as one compiled kernel; None where it cannot be compiled.

    Args:
        kind: tells the step from all others but for its parameters.
        step: the step as a pure function, see ``Recurrence``.
        gates: number of gates side by side.
        states: number of states.
        parameters: tensors of the shapes, dtypes and devices of the step's parameters.
        like: a tensor of the dtype and device of gates and states.
    """

    def program(x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        return step(others[states:], x, others[:states])

    cache = _KERNELS.setdefault(kind, KernelCache(program))
    shape = (_EXAMPLE_BATCH, _EXAMPLE_SIZE)
    shapes = [(_EXAMPLE_BATCH, gates, _EXAMPLE_SIZE), *[shape] * states]
    shapes += [tuple(parameter.shape) for parameter in parameters]
    values = [like] * (1 + states) + list(parameters)
    kernel = cache.of_shapes((gates, tuple(shapes[1 + states :])), shapes, values)
    if kernel is None:
        return None

    def run(given: Sequence[Tensor], x: Tensor, before: States) -> States:
        return tuple(kernel(x, *before, *given))

    return run


def run_recurrence(
    recurrence: Recurrence,
    projected: Tensor,
    weight: Tensor,
    initial: States,
    parameters: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """Run over a sequence, in one differentiable operation.

    Args:
        recurrence: the step and its direction.
        projected: what the input adds to the gates, ``[steps, batch, gates * size]``.
        weight: of the product with the hidden state, ``[gates * size, size]``.
        initial: states before the first step, each ``[batch, size]``.
        parameters: further tensors that the step depends on.

    Returns:
        The hidden states, ``[steps, batch, size]``, and every other state after the last step.

    Example:
        >>> add = Recurrence(lambda parameters, gates, states: (gates.squeeze(-2),), 1, False)
        >>> one = torch.ones(1, 1)
        >>> run_recurrence(add, torch.ones(3, 1, 1), one, (one,), ())[0].flatten()
        tensor([2., 3., 4.])
    """
    tensors = (projected, weight, *initial, *parameters)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return _RecurrenceFn.apply(recurrence, len(initial), *tensors)
    hidden, last, _ = _forward(recurrence, projected, weight, initial, parameters, keeps=False)
    return torch.stack(hidden), *last[1:]


def _forward(
    recurrence: Recurrence,
    projected: Tensor,
    weight: Tensor,
    states: States,
    parameters: Sequence[Tensor],
    keeps: bool,
) -> tuple[list[Tensor], States, list[Any]]:
    """Hidden states in the order of the sequence, last states, and gates and states of all steps.

    The latter are in the order of computation, each with the states before it.
    """
    step = recurrence.eager_step or recurrence.step
    size = (recurrence.gates, weight.shape[1])
    steps, transposed = projected.unbind(0), weight.t()
    hidden: list[Tensor] = [projected] * len(steps)
    kept = []
    for place in recurrence.order(len(steps)):
        gates = torch.addmm(steps[place], states[0], transposed)
        if keeps:
            kept.append((gates, states))
        states = step(parameters, gates.unflatten(-1, size), states)
        hidden[place] = states[0]
    return hidden, states, kept


class _RecurrenceFn(torch.autograd.Function):
    """Forward without a graph; see the module for the backward pass."""

    @staticmethod
    def forward(ctx: Any, recurrence: Recurrence, count: int, *tensors: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        projected, weight, *others = tensors
        initial, parameters = tuple(others[:count]), others[count:]
        arguments = (recurrence, projected, weight, initial, parameters)
        hidden, last, kept = _forward(*arguments, keeps=True)
        ctx.recurrence, ctx.count = recurrence, count
        gates = torch.stack([gates for gates, _ in kept])
        before = [torch.stack(states) for states in zip(*(s for _, s in kept), strict=True)]
        ctx.save_for_backward(*tensors, gates, *before)
        ctx.set_materialize_grads(True)
        return torch.stack(hidden), *(state.clone() for state in last[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        count, recurrence = ctx.count, ctx.recurrence
        saved, needs = ctx.saved_tensors, ctx.needs_input_grad[2:]
        tensors, gates, before = saved[: -1 - count], saved[-1 - count], saved[-count:]
        if torch.is_grad_enabled():  # a gradient of the gradient is asked for
            return None, None, *_differentiable(recurrence, count, tensors, grads, needs)
        local = _Local(recurrence, tensors[2 + count :], needs[2 + count :], gates, before)
        return None, None, *_go_back(recurrence, count, tensors, grads, needs, local)


class _Local:
    """All steps at once, each from the states before it, with autograd."""

    def __init__(
        self,
        recurrence: Recurrence,
        parameters: Sequence[Tensor],
        needs: Sequence[bool],
        gates: Tensor,
        before: Sequence[Tensor],
    ) -> None:
        size = (recurrence.gates, before[0].shape[-1])
        pairs = zip(parameters, needs, strict=True)
        self.parameters = [p.detach().requires_grad_(need) for p, need in pairs]
        self.gates = gates.unflatten(-1, size).detach().requires_grad_()
        self.before = tuple(state.detach().requires_grad_() for state in before)
        self.asked = GridGradients()
        step = recurrence.linearized(self.asked) if recurrence.linearized else recurrence.step
        with torch.enable_grad():
            self.after = step(self.parameters, self.gates, self.before)

    def jacobians(self) -> list[tuple[Tensor | None, ...]]:
        """For each state its derivatives by gates and by all states but the hidden one before."""
        inputs = (self.gates, *self.before[1:])
        return [
            torch.autograd.grad(
                state, inputs, torch.ones_like(state), retain_graph=True, allow_unused=True
            )
            for state in self.after
        ]

    def parameter_gradients(self, grads: Sequence[Tensor]) -> list[Tensor | None]:
        """Gradients of all parameters, None for one that needs none."""
        wanted = [p for p in self.parameters if p.requires_grad]
        if not wanted:
            return [None] * len(self.parameters)
        self.asked.wanted = True
        found = torch.autograd.grad(self.after, wanted, tuple(grads), materialize_grads=True)
        each = iter(found)
        return [next(each) if p.requires_grad else None for p in self.parameters]


def _go_back(
    recurrence: Recurrence,
    count: int,
    tensors: Sequence[Tensor],
    grads: Sequence[Tensor],
    needs: Sequence[bool],
    local: _Local,
) -> list[Tensor | None]:
    """Gradients of all tensors, from the gradients of the hidden states and of the last states."""
    projected, weight = tensors[:2]
    jacobians = [
        [None if j is None else j.unbind(0) for j in of_state] for of_state in local.jacobians()
    ]
    order = recurrence.order(projected.shape[0])
    grad_hidden = grads[0].unbind(0)
    carried: list[Tensor] = [torch.zeros_like(tensors[2]), *grads[1:]]
    adjoints: list[list[Tensor]] = []
    grad_gates: list[Tensor] = [projected] * len(order)
    for number in reversed(range(len(order))):
        place = order[number]
        adjoint = [carried[0] + grad_hidden[place], *carried[1:]]
        wide = [a.unsqueeze(-2) for a in adjoint]
        flat = _apply(wide, [j[0] for j in jacobians], number).flatten(-2)
        others = [_apply(adjoint, [j[k] for j in jacobians], number) for k in range(1, count)]
        carried = [torch.mm(flat, weight), *others]
        grad_gates[place] = flat
        adjoints.append(adjoint)
    adjoints.reverse()
    found: list[Tensor | None] = [None] * (2 + count)
    stacked = torch.stack(grad_gates)
    found[0] = stacked if needs[0] else None
    if needs[1]:
        in_order = stacked.flip(0) if recurrence.reverse else stacked
        found[1] = torch.mm(in_order.flatten(0, 1).t(), local.before[0].detach().flatten(0, 1))
    found[2:] = carried
    by_state = [torch.stack(states) for states in zip(*adjoints, strict=True)]
    return [*found, *local.parameter_gradients(by_state)]


def _apply(adjoint: Sequence[Tensor], jacobians: Sequence[Any], number: int) -> Tensor:
    """Sum over all states of adjoint times derivative at one step."""
    total = None
    for vector, derivative in zip(adjoint, jacobians, strict=True):
        if derivative is None:
            continue
        product = (vector, derivative[number])
        total = torch.mul(*product) if total is None else torch.addcmul(total, *product)
    return torch.zeros_like(adjoint[0]) if total is None else total


def _differentiable(
    recurrence: Recurrence,
    count: int,
    tensors: Sequence[Tensor],
    grads: Sequence[Tensor],
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """The same gradients, as a function that autograd can differentiate again."""
    own = [tensor.view_as(tensor) for tensor in tensors]
    projected, weight, *others = own
    plain = recurrence._replace(eager_step=None)
    arguments = (plain, projected, weight, tuple(others[:count]), others[count:])
    hidden, last, _ = _forward(*arguments, keeps=False)
    outputs = (torch.stack(hidden), *last[1:])
    wanted = [tensor for tensor, need in zip(own, needs, strict=True) if need]
    found = iter(
        torch.autograd.grad(outputs, wanted, grads, create_graph=True, materialize_grads=True)
    )
    return [next(found) if need else None for need in needs]
