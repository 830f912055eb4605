"""The operation with its derivative found in the forward pass equals the fused one."""

from __future__ import annotations

import pytest
import torch

from brevitas.ops.fake_quant import FakeQuantPlan, fake_quant
from brevitas.ops.linearized import GridGradients, linearized_fake_quant

PLANS = [FakeQuantPlan(), FakeQuantPlan("FLOOR"), FakeQuantPlan("ROUND", True)]


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("function", [None, torch.sigmoid, torch.tanh])
@pytest.mark.parametrize("shape", [(), (4, 1)])
@pytest.mark.parametrize("learned", [False, True])
def test_values_and_gradients(plan, function, shape, learned):
    torch.manual_seed(0)
    x = 2 * torch.randn(6, 4, 5, dtype=torch.float64)
    scale = torch.rand(shape, dtype=torch.float64) / 5 + 0.05
    shift = torch.full(shape, 1.0, dtype=torch.float64) if learned else None
    bounds = [torch.tensor(b, dtype=torch.float64) if learned else b for b in (-4.0, 5.0)]
    grad = torch.randn_like(x)
    found = []
    for linearized in (True, False):
        tensors = [t for t in (x, scale, shift, *bounds) if isinstance(t, torch.Tensor)]
        leaves = iter([t.clone().requires_grad_() for t in tensors])
        operands = [
            next(leaves) if isinstance(t, torch.Tensor) else t for t in (x, scale, shift, *bounds)
        ]
        asked = GridGradients()
        if linearized:
            y = linearized_fake_quant(*operands, function, plan, asked)
        else:
            activated = operands[0] if function is None else function(operands[0])
            y = fake_quant(activated, *operands[1:], plan)
        wanted = [o for o in operands if isinstance(o, torch.Tensor)]
        asked.wanted = True
        gradients = torch.autograd.grad(y, wanted, grad, materialize_grads=True)
        found.append([y.detach(), *gradients])
    for ours, expected in zip(*found, strict=True):
        # float64: a few roundings of sums of 120 terms.
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


def test_gradients_of_the_grid_only_where_asked_for():
    x, scale = torch.randn(3, requires_grad=True), torch.tensor(0.5, requires_grad=True)
    asked = GridGradients()
    y = linearized_fake_quant(x, scale, None, -8.0, 7.0, None, FakeQuantPlan(), asked)
    first = torch.autograd.grad(y.sum(), (x, scale), retain_graph=True, allow_unused=True)
    assert first[1] is None
    asked.wanted = True
    assert torch.autograd.grad(y.sum(), (x, scale))[1] is not None


def test_not_a_number_is_clamped():
    x = torch.tensor([float("nan"), 0.3], requires_grad=True)
    operands = (x, torch.tensor(0.5), None, -8.0, 7.0, None, FakeQuantPlan(), GridGradients())
    (grad,) = torch.autograd.grad(linearized_fake_quant(*operands).sum(), x)
    assert torch.equal(grad, torch.tensor([0.0, 1.0]))
