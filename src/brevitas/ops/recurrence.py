"""Runs a recurrence whose step works element by element on products of the state. Layer: ops (L1).

    gates_t  = projected_t + hidden_{t-1} @ weight.T
    states_t = step(gates_t, states_{t-1})

All but the product works element by element, so that the Jacobian of a step is diagonal. The
backward pass goes back step by step with a few products and one matrix product each, and finds the
gradients of all parameters at once. Everything is written into buffers that are made once: new
memory costs more than the arithmetic of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from brevitas.ops.linearized import GridGradients

__all__ = ["Recurrence", "States", "Step", "StepGradients", "Write", "run_recurrence"]

States = tuple[Tensor, ...]
Step = Callable[[Sequence[Tensor], Tensor, States], States]
Write = Callable[[Tensor, States, States], Any]


class StepGradients(Protocol):
    """The backward pass of a sequence, whose gates and states it was made of."""

    def step(self, number: int, grads: States, after: States, out: States) -> None:
        """Go back by one step.

        Args:
            number: number of the step, in the order of computation.
            grads: gradients of its hidden state, as an output and through the gates.
            after: gradients of its other states.
            out: where to write the gradient of the gates, the sum of ``grads``, and the gradients
                of the other states before the step.
        """
        ...

    def of_parameters(self, adjoints: States) -> list[Tensor | None]:
        """Gradients of all parameters, None for one that needs none.

        Args:
            adjoints: gradients of the states of all steps, hidden state first.
        """
        ...


class Recurrence(NamedTuple):
    """What is computed at every step, and in which direction.

    Args:
        step: pure function ``(parameters, gates, states) -> states`` of gates ``[..., gates,
            size]`` and states ``[..., size]``, hidden state first, with any leading dimensions. An
            element of a state depends on the elements at its own place only, on parameters, and on
            the hidden state before through the gates alone.
        gates: number of gates side by side.
        reverse: whether it starts at the end of the sequence.
        write: computes the same as ``step`` for one step outside of autograd, and writes the
            states into the last argument; by default ``step`` itself.
        linearized: makes a step that computes the same with its derivatives found in the forward
            pass, and with gradients of parameters where these are asked for.
        gradients: makes the backward pass, of parameters, which of them need a gradient, gates and
            states before each step; by default autograd finds it on the whole sequence.
    """

    step: Step
    gates: int
    reverse: bool
    write: Write | None = None
    linearized: Callable[[GridGradients], Step] | None = None
    gradients: Callable[..., StepGradients] | None = None

    def order(self, steps: int) -> range:
        """Places of the steps in the order in which they are computed."""
        return range(steps - 1, -1, -1) if self.reverse else range(steps)


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
    steps, (batch, size) = projected.shape[0], initial[0].shape
    hidden = projected.new_empty(steps, batch, size)
    gates = projected.new_empty(batch, recurrence.gates, size)
    # Each of the other states is written beside the one before it.
    turns = [[projected.new_empty(batch, size) for _ in range(2)] for _ in initial[1:]]
    places = hidden.unbind(0)
    states = [initial]
    for number, place in enumerate(recurrence.order(steps)):
        states.append((places[place], *(pair[number % 2] for pair in turns)))
    flat = gates.flatten(-2)
    _run(recurrence, projected, weight, parameters, [(gates, flat)] * steps, states)
    return hidden, *states[-1][1:]


def _run(
    recurrence: Recurrence,
    projected: Tensor,
    weight: Tensor,
    parameters: Sequence[Tensor],
    gates: Sequence[tuple[Tensor, Tensor]],
    states: Sequence[States],
) -> None:
    """Write gates and states, in the order of computation; the first states are there.

    The gates of each step are given as ``[batch, gates, size]`` and as ``[batch, gates * size]``.
    """
    write = recurrence.write or _writing(recurrence.step, parameters)
    inputs, transposed = projected.unbind(0), weight.t().contiguous()
    pairs = zip(states, states[1:], strict=False)
    order = recurrence.order(len(inputs))
    for place, (wide, flat), (before, after) in zip(order, gates, pairs, strict=True):
        torch.addmm(inputs[place], before[0], transposed, out=flat)
        write(wide, before, after)


def _writing(step: Step, parameters: Sequence[Tensor]) -> Write:
    def write(gates: Tensor, states: States, out: States) -> None:
        for target, value in zip(out, step(parameters, gates, states), strict=True):
            target.copy_(value)

    return write


class _RecurrenceFn(torch.autograd.Function):
    """Forward without a graph; see the module for the backward pass."""

    @staticmethod
    def forward(ctx: Any, recurrence: Recurrence, count: int, *tensors: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        projected, weight, *others = tensors
        initial, parameters = others[:count], others[count:]
        steps, (batch, size) = projected.shape[0], initial[0].shape
        gates = projected.new_empty(steps, batch, recurrence.gates, size)
        # The states before the first step, and after each one.
        kept = [projected.new_empty(steps + 1, batch, size) for _ in initial]
        for states, first in zip(kept, initial, strict=True):
            states[0].copy_(first)
        each = list(zip(*(states.unbind(0) for states in kept), strict=True))
        views = list(zip(gates.unbind(0), gates.flatten(-2).unbind(0), strict=True))
        _run(recurrence, projected, weight, parameters, views, each)
        ctx.recurrence, ctx.count = recurrence, count
        ctx.save_for_backward(*tensors, gates, *kept)
        ctx.set_materialize_grads(True)
        # Copies: the caller may write to them.
        hidden = _in_sequence(recurrence, kept[0][1:]).clone()
        return hidden, *(state.clone() for state in each[-1][1:])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        count, recurrence = ctx.count, ctx.recurrence
        saved, needs = ctx.saved_tensors, ctx.needs_input_grad[2:]
        tensors, gates, kept = saved[: -1 - count], saved[-1 - count], saved[-count:]
        if torch.is_grad_enabled():  # a gradient of the gradient is asked for
            return None, None, *_differentiable(recurrence, count, tensors, grads, needs)
        before = tuple(states[:-1] for states in kept)
        make = recurrence.gradients or _Local
        found = make(recurrence, tensors[2 + count :], needs[2 + count :], gates, before)
        return None, None, *_go_back(recurrence, tensors[1], grads, needs, before, found)


def _in_sequence(recurrence: Recurrence, x: Tensor) -> Tensor:
    """Steps in the order of computation as they lie in the sequence, and the other way round."""
    return x.flip(0) if recurrence.reverse else x


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
        pairs = zip(parameters, needs, strict=True)
        self.parameters = [p.detach().requires_grad_(need) for p, need in pairs]
        leaves = gates.detach().requires_grad_()
        others = tuple(state.detach().requires_grad_() for state in before)
        self.asked = GridGradients()
        step = recurrence.linearized(self.asked) if recurrence.linearized else recurrence.step
        with torch.enable_grad():
            self.after = step(self.parameters, leaves, others)
        #: For each input, gates first, its derivative of each state, by step; None for zero.
        self.jacobians: list[list[Any]] = [[] for _ in others]
        for state in self.after:
            derivatives = torch.autograd.grad(
                state,
                (leaves, *others[1:]),
                torch.ones_like(state),
                retain_graph=True,
                allow_unused=True,
            )
            for found, derivative in zip(self.jacobians, derivatives, strict=True):
                found.append(None if derivative is None else derivative.unbind(0))

    def step(self, number: int, grads: States, after: States, out: States) -> None:
        """Go back by one step."""
        of_gates, adjoint, *of_others = out
        torch.add(*grads, out=adjoint)
        vectors = (adjoint, *after)
        wide = [vector.unsqueeze(-2) for vector in vectors]
        _sum_products(wide, self.jacobians[0], number, of_gates)
        for jacobian, target in zip(self.jacobians[1:], of_others, strict=True):
            _sum_products(vectors, jacobian, number, target)

    def of_parameters(self, adjoints: States) -> list[Tensor | None]:
        """Gradients of all parameters, None for one that needs none."""
        wanted = [p for p in self.parameters if p.requires_grad]
        if not wanted:
            return [None] * len(self.parameters)
        self.asked.wanted = True
        found = torch.autograd.grad(self.after, wanted, adjoints, materialize_grads=True)
        each = iter(found)
        return [next(each) if p.requires_grad else None for p in self.parameters]


def _sum_products(
    vectors: Sequence[Tensor], jacobian: Sequence[Any], number: int, out: Tensor
) -> None:
    """Write the sum over all states of adjoint times derivative at one step."""
    is_first = True
    for vector, derivative in zip(vectors, jacobian, strict=True):
        if derivative is None:
            continue
        if is_first:
            torch.mul(vector, derivative[number], out=out)
        else:
            out.addcmul_(vector, derivative[number])
        is_first = False
    if is_first:
        out.zero_()


def _go_back(
    recurrence: Recurrence,
    weight: Tensor,
    grads: Sequence[Tensor],
    needs: Sequence[bool],
    before: States,
    local: StepGradients,
) -> list[Tensor | None]:
    """Gradients of all tensors, from the gradients of the hidden states and of the last states."""
    steps, batch, size = before[0].shape
    grad_gates = weight.new_empty(steps, batch, recurrence.gates, size)
    flat = grad_gates.flatten(-2)
    carried = weight.new_zeros(batch, size)
    hidden = weight.new_empty(steps, batch, size)
    others = [weight.new_empty(steps + 1, batch, size) for _ in grads[1:]]
    for adjoints, last in zip(others, grads[1:], strict=True):
        adjoints[-1].copy_(last)
    each: list[States] = [()] * (steps + 1)
    if others:
        each = list(zip(*(adjoints.unbind(0) for adjoints in others), strict=True))
    views = (grads[0].unbind(0), grad_gates.unbind(0), flat.unbind(0), hidden.unbind(0))
    order = recurrence.order(steps)
    for number in reversed(range(steps)):
        place = order[number]
        given, gates, products = (view[place] for view in views[:3])
        out = (gates, views[3][number], *each[number])
        local.step(number, (given, carried), each[number + 1], out)
        torch.mm(products, weight, out=carried)
    found: list[Tensor | None] = [flat if needs[0] else None, None]
    if needs[1]:
        in_order = _in_sequence(recurrence, flat)
        found[1] = torch.mm(in_order.flatten(0, 1).t(), before[0].flatten(0, 1))
    found += [carried, *(adjoints[0] for adjoints in others)]
    return [*found, *local.of_parameters((hidden, *(adjoints[1:] for adjoints in others)))]


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
    states, parameters = tuple(others[:count]), others[count:]
    size = (recurrence.gates, weight.shape[1])
    transposed = weight.t().contiguous()
    hidden = [projected] * len(projected)
    for place in recurrence.order(len(projected)):
        gates = torch.addmm(projected[place], states[0], transposed)
        states = recurrence.step(parameters, gates.unflatten(-1, size), states)
        hidden[place] = states[0]
    outputs = (torch.stack(hidden), *states[1:])
    wanted = [tensor for tensor, need in zip(own, needs, strict=True) if need]
    found = iter(
        torch.autograd.grad(outputs, wanted, grads, create_graph=True, materialize_grads=True)
    )
    return [next(found) if need else None for need in needs]
