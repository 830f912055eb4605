"""Tests of the straight-through value: bit for bit the hard one, with the gradient of the soft."""

from __future__ import annotations

import torch

from brevitas.quant_tensor.exact._straight_through import straight_through


def test_value_and_gradient():
    x = torch.randn(50, requires_grad=True)
    hard = torch.randn(50) * 1e8
    y = straight_through(3 * x, hard)
    assert torch.equal(y.detach(), hard)
    y.sum().backward()
    assert torch.equal(x.grad, torch.full((50,), 3.0))


def test_adding_the_difference_would_not_give_the_value():
    soft, hard = torch.tensor(1e8), torch.tensor(0.3)
    assert soft + (hard - soft) != hard
    assert straight_through(soft.requires_grad_(), hard) == hard


def test_nothing_is_recorded_where_no_gradient_is_asked_for():
    hard = torch.ones(2)
    assert straight_through(torch.zeros(2), hard) is hard
    with torch.no_grad():
        assert straight_through(torch.zeros(2, requires_grad=True), hard) is hard


def test_transforms_of_functions():
    def square(x):
        return straight_through(x * x, torch.round(x)).sum()

    x = torch.tensor([0.3, 1.7])
    assert torch.equal(torch.func.grad(square)(x), 2 * x)
    assert torch.equal(torch.func.vmap(torch.func.grad(square))(x.reshape(2, 1)).flatten(), 2 * x)
