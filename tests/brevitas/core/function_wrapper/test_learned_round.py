"""Learned rounding: formulas, gradients, loading."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from brevitas import config
from brevitas.core.function_wrapper.learned_round import (
    LearnedRoundHardSigmoid,
    LearnedRoundIdentity,
    LearnedRoundSigmoid,
    LearnedRoundSte,
)
from brevitas.core.function_wrapper.shape import OverSubChannelBlockView

X = torch.tensor([-2.5, -1.3, 0.0, 0.3, 1.7])
P = torch.tensor([-3.0, -0.6, 0.0, 0.2, 4.0])


def _run(impl: nn.Module) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    x = X.clone().requires_grad_()
    rounding = LearnedRoundSte(impl, P).train(impl.training)
    y = rounding(x)
    y.sum().backward()
    return y.detach(), x.grad, rounding.value.grad


def test_hard_sigmoid() -> None:
    y, x_gradient, p_gradient = _run(LearnedRoundHardSigmoid())
    p = P.clone().requires_grad_()
    weight = (torch.sigmoid(p) * 1.2 - 0.1).clamp(0, 1)
    weight.sum().backward()
    # 1.2 and 1.1 + 0.1 differ by one rounding
    assert torch.allclose(y, X.floor() + weight.detach(), atol=4 * 2**-23)
    assert torch.equal(x_gradient, torch.ones_like(X))
    assert torch.allclose(p_gradient, p.grad, atol=4 * 2**-23)


def test_sigmoid() -> None:
    y, x_gradient, p_gradient = _run(LearnedRoundSigmoid(0.5))
    p = P.clone().requires_grad_()
    weight = torch.sigmoid(p * 2)
    weight.sum().backward()
    assert torch.equal(y, X.floor() + weight.detach())
    assert torch.equal(x_gradient, torch.ones_like(X))
    assert torch.equal(p_gradient, p.grad)


@pytest.mark.parametrize("impl", [LearnedRoundHardSigmoid(), LearnedRoundSigmoid()])
def test_evaluation_rounds_up_where_positive(impl: nn.Module) -> None:
    y, x_gradient, p_gradient = _run(impl.eval())
    assert torch.equal(y, X.floor() + (P > 0))
    assert torch.equal(x_gradient, torch.ones_like(X))
    assert p_gradient is None


@pytest.mark.parametrize("training", [True, False])
def test_identity(training: bool) -> None:
    y, x_gradient, p_gradient = _run(LearnedRoundIdentity().train(training))
    assert torch.equal(y, (X + P.clamp(-0.5, 0.5)).round())
    assert torch.equal(x_gradient, torch.ones_like(X))
    assert torch.equal(p_gradient, torch.ones_like(X))


def test_zero_temperature() -> None:
    with pytest.raises(ValueError, match="learned_round_temperature=0"):
        LearnedRoundSigmoid(0)


def test_value_follows_view_and_slice() -> None:
    rounding = LearnedRoundSte(
        LearnedRoundHardSigmoid(), torch.zeros(2, 6), OverSubChannelBlockView((-1, 2, 3), 3, 1)
    )
    assert rounding(torch.zeros(2, 2, 3)).shape == (2, 2, 3)
    rounding.tensor_slicer.subtensor_slice_list = [(0, 1)]
    assert rounding(torch.zeros(1, 2, 3)).shape == (1, 2, 3)


def test_value_is_its_own_copy() -> None:
    initial = torch.zeros(2)
    rounding = LearnedRoundSte(LearnedRoundIdentity(), initial, dtype=torch.float64)
    initial += 1
    assert rounding.value.tolist() == [0.0, 0.0] and rounding.value.dtype == torch.float64


def test_missing_value_is_an_error_unless_allowed() -> None:
    rounding = LearnedRoundSte(LearnedRoundIdentity(), torch.zeros(2))
    assert list(rounding.state_dict()) == ["value"]
    with pytest.raises(RuntimeError, match="value"):
        rounding.load_state_dict({})
    with config.overrides(IGNORE_MISSING_KEYS=True):
        rounding.load_state_dict({})
