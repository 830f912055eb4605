"""A positive scale against the same formula in plain PyTorch."""

from __future__ import annotations

import pytest
import torch

from brevitas.ops.scale import positive_scale


@pytest.mark.parametrize("smallest", [None, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_formula(smallest: float | None, dtype: torch.dtype) -> None:
    value = torch.tensor([-6.0, -0.2, 0.0, 0.3, 5.0], dtype=dtype, requires_grad=True)
    threshold, before = torch.tensor(127.0, dtype=dtype), value.detach().clone()
    scale = positive_scale(value, smallest, threshold)
    magnitude = before.abs() if smallest is None else before.abs().clamp_min(smallest)
    assert torch.equal(scale, magnitude / threshold) and torch.equal(value, before)
    scale.backward(torch.ones_like(value))
    # The sign of zero counts as positive; what is limited from below passes its gradient.
    signs = torch.tensor([-1.0, -1.0, 1.0, 1.0, 1.0], dtype=dtype)
    assert torch.equal(value.grad, signs / threshold)


def test_without_gradient_nothing_is_recorded() -> None:
    assert positive_scale(torch.ones(2), 0.1, torch.tensor(2.0)).grad_fn is None


def test_second_gradient() -> None:
    value = torch.tensor([-6.0, 2.0], dtype=torch.float64, requires_grad=True)
    threshold = torch.tensor(7.0, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(lambda v: positive_scale(v, None, threshold) ** 3, value)
