"""A recurrence as one operation has the values and gradients of its loop."""

from __future__ import annotations

import pytest
import torch

from brevitas.ops.recurrence import Recurrence, compiled_step, run_recurrence


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


@pytest.mark.long
def test_compiled_step():
    leaves = [leaf.detach() for leaf in arguments()]
    compiled = compiled_step("test", step, 2, 2, leaves[4:], leaves[0])
    if compiled is None:
        pytest.skip("no compiler")
    plain = Recurrence(step, 2, reverse=False)
    fast = plain._replace(eager_step=compiled)
    for ours, expected in zip(
        outputs(run_recurrence, fast, leaves), outputs(run_recurrence, plain, leaves), strict=True
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14)
