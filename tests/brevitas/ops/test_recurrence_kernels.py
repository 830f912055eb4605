"""A step as compiled kernels equals the step as plain operations, values and gradients."""

from __future__ import annotations

import pytest
import torch

from brevitas.ops._recurrence_kernels import compiled_step
from brevitas.ops.recurrence import Recurrence, run_recurrence


def apart(parameters, gates, states):
    """A gated step of two states that takes the gates one by one."""
    (scale,) = parameters
    first, second = (gate * scale[place] for place, gate in enumerate(gates))
    cell = torch.sigmoid(first) * states[1] + torch.tanh(second)
    return torch.tanh(cell) * torch.sigmoid(second), cell


def step(parameters, gates, states):
    """The same of gates side by side."""
    return apart(parameters, gates.unbind(-2), states)


def leaves():
    torch.manual_seed(0)
    shapes = ((4, 2, 6), (6, 3), (2, 3), (2, 3), (2, 1))
    return [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes]


@pytest.mark.long
@pytest.mark.parametrize("learned", [False, True])
def test_compiled_step(learned):
    found = []
    plain = Recurrence(step, 2, reverse=learned)
    for is_compiled in (False, True):
        tensors = leaves()
        tensors[4].requires_grad_(learned)
        projected, weight, hidden, cell, scale = tensors
        recurrence = plain
        if is_compiled:
            arguments = ("test", apart, 2, 2, [scale], projected)
            compiled = compiled_step(*arguments, needs=(learned,))
            if compiled is None:
                pytest.skip("no compiler")
            assert compiled_step(*arguments, needs=None).backward is None
            recurrence = plain._replace(write=compiled.write, gradients=compiled.gradients)
        output, last = run_recurrence(recurrence, projected, weight, (hidden, cell), [scale])
        (output.sin().sum() + last.square().sum()).backward()
        found.append([output, last, *(leaf.grad for leaf in tensors[: 4 + learned])])
    for ours, expected in zip(*found, strict=True):
        # float64: a few roundings of sums of a few hundred terms.
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)
