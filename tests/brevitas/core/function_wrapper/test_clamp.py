"""Clamps whose gradient is zero where they limit."""

from __future__ import annotations

import torch

from brevitas.core.function_wrapper.clamp import ClampMin, ScalarClamp, TensorClamp

X = torch.tensor([-3.0, -1.0, 0.5, 2.0, 5.0])


def test_tensor_clamp_hands_the_gradient_to_the_active_bound() -> None:
    x = X.clone().requires_grad_()
    low, high = torch.tensor(-2.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    y = TensorClamp()(x, low, high)
    y.sum().backward()
    assert torch.equal(y, X.clamp(-2.0, 3.0))
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
    assert (low.grad.item(), high.grad.item()) == (1.0, 1.0)


def test_scalar_clamp() -> None:
    x = X.clone().requires_grad_()
    y = ScalarClamp(-2.0, 3.0)(x)
    y.sum().backward()
    assert torch.equal(y, X.clamp(-2.0, 3.0))
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_clamp_min() -> None:
    x = X.clone().requires_grad_()
    y = ClampMin(0.0)(x)
    y.sum().backward()
    assert torch.equal(y, X.clamp_min(0.0))
    assert x.grad.tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]
