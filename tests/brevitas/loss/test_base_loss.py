"""A loss that hooks add up."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from brevitas.loss.base_loss import SimpleBaseLoss


class Squares(SimpleBaseLoss):
    def register_hooks(self):
        self.model.register_forward_hook(self.add)

    def add(self, model, inputs, output):
        self.tot_loss = self.tot_loss + output.square().sum()


def test_terms_are_added_until_zeroed():
    model = nn.Linear(3, 2)
    loss, x = Squares(model, 0.1), torch.randn(4, 3)
    assert loss.retrieve() == 0.0 and loss.log() == 0.0
    outputs = [model(x), model(2 * x)]
    expected = 0.1 * sum(output.square().sum() for output in outputs)
    torch.testing.assert_close(loss.retrieve(), expected)
    loss.retrieve().backward()
    assert model.weight.grad is not None
    assert not loss.log().requires_grad
    loss.zero_accumulated_values()
    assert loss.retrieve() == 0.0


def test_hooks_are_a_subclass_s_business():
    with pytest.raises(TypeError, match="abstract"):
        SimpleBaseLoss(nn.Identity(), 1.0)
