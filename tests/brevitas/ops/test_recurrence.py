"""A recurrence as one operation has the values and gradients of its loop."""

from __future__ import annotations

import pytest
import torch

from brevitas.ops.recurrence import Recurrence, run_recurrence


def step(parameters, gates, states):
    """A gated step of two states, elementwise, with a parameter for each gate."""
    (scale,) = parameters
    first, second = (gates * scale).unbind(-2)
    cell = torch.sigmoid(first) * states[1] + torch.tanh(second)
    return torch.tanh(cell) * torch.sigmoid(second), cell


def loop(recurrence, projected, weight, initial, parameters):
    hidden = [torch.empty(0)] * projected.shape[0]
    states = initial
    for place in recurrence.order(projected.shape[0]):
        gates = projected[place] + states[0] @ weight.t()
        states = recurrence.step(parameters, gates.unflatten(-1, (2, 3)), states)
        hidden[place] = states[0]
    return torch.stack(hidden), *states[1:]


def arguments(needs=(True,) * 5):
    torch.manual_seed(0)
    shapes = ((4, 2, 6), (6, 3), (2, 3), (2, 3), (2, 1))
    pairs = zip(shapes, needs, strict=True)
    return [torch.randn(s, dtype=torch.float64).requires_grad_(need) for s, need in pairs]


def outputs(run, recurrence, leaves):
    projected, weight, hidden, cell, scale = leaves
    return run(recurrence, projected, weight, (hidden, cell), [scale])


NEEDS = [
    (True,) * 5,
    (True, False, False, False, False),
    (False, True, False, False, True),
    (False, False, True, True, False),
]


@pytest.mark.parametrize("needs", NEEDS)
@pytest.mark.parametrize("reverse", [False, True])
def test_values_and_gradients(reverse, needs):
    recurrence = Recurrence(step, 2, reverse)
    found = []
    for run in (run_recurrence, loop):
        leaves = arguments(needs)
        hidden, cell = outputs(run, recurrence, leaves)
        (hidden.sin().sum() + cell.square().sum()).backward()
        found.append([hidden.detach(), cell.detach(), *(leaf.grad for leaf in leaves)])
    for ours, expected in zip(*found, strict=True):
        if expected is None:
            assert ours is None
        else:
            torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


def test_gradients_of_gradients():
    recurrence = Recurrence(step, 2, reverse=False)
    assert torch.autograd.gradgradcheck(
        lambda *leaves: outputs(run_recurrence, recurrence, leaves), arguments()
    )


def test_without_gradients_nothing_is_kept():
    recurrence = Recurrence(step, 2, reverse=False)
    with torch.no_grad():
        hidden, _ = outputs(run_recurrence, recurrence, arguments())
    assert hidden.grad_fn is None


def test_a_step_that_writes():
    plain = Recurrence(step, 2, reverse=True)

    def write(gates, states, out):
        for target, value in zip(out, step([scale], gates, states), strict=True):
            target.copy_(value)

    for needs in NEEDS[0], (False,) * 5:
        leaves = arguments(needs)
        scale = leaves[4].detach()
        writing = plain._replace(write=write)
        pairs = zip(*(outputs(run_recurrence, r, leaves) for r in (plain, writing)), strict=True)
        assert all(torch.equal(ours, expected) for ours, expected in pairs)


def test_outputs_may_be_written_to():
    recurrence = Recurrence(step, 2, reverse=False)
    found = []
    for in_place in (False, True):
        leaves = arguments()
        hidden, cell = outputs(run_recurrence, recurrence, leaves)
        doubled = hidden.mul_(2) if in_place else hidden * 2
        (doubled.sin().sum() + cell.sum()).backward()
        found.append([leaf.grad for leaf in leaves])
    for ours, expected in zip(*found, strict=True):
        assert torch.equal(ours, expected)
