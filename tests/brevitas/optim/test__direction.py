"""The direction of a step is that of `torch.optim.SGD`."""

from __future__ import annotations

import pytest
import torch

from brevitas.optim._direction import direction

OPTIONS = [
    {},
    {"weight_decay": 0.1},
    {"momentum": 0.9},
    {"momentum": 0.9, "weight_decay": 0.1, "dampening": 0.5},
    {"momentum": 0.9, "nesterov": True},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_the_same_steps(options):
    defaults = {"weight_decay": 0.0, "momentum": 0.0, "dampening": 0.0, "nesterov": False}
    weight, buffer = torch.randn(5), None
    twin = torch.nn.Parameter(weight.clone())
    optimizer = torch.optim.SGD([twin], lr=0.1, **options)
    for _ in range(4):
        gradient = torch.randn(5)
        before = gradient.clone()
        towards, buffer = direction(gradient, weight, buffer, **{**defaults, **options})
        assert torch.equal(gradient, before)
        assert (buffer is None) is ("momentum" not in options)
        weight = weight - 0.1 * towards
        twin.grad = gradient
        optimizer.step()
        torch.testing.assert_close(weight, twin.detach())
