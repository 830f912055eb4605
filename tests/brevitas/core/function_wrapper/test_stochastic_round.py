"""Rounding at random."""

from __future__ import annotations

import copy

import pytest
import torch

from brevitas.core.function_wrapper.stochastic_round import (
    StochasticRoundSte,
    stochastic_round_ste_fn,
)

# torch 2.13 raises it inside of dynamo, for every autograd function (found 2026-11-22).
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


@pytest.mark.parametrize("value", [-1.7, -0.5, 0.3, 2.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mean_is_kept(value: float, dtype: torch.dtype) -> None:
    x = torch.full((20_000,), value, dtype=dtype)
    y = StochasticRoundSte(seed=0)(x).double()
    assert set(y.unique().tolist()) == {x[0].floor().item(), x[0].ceil().item()}
    # standard error of a mean of 20,000 coin flips is at most 0.5 / sqrt(20,000): five of them
    assert abs(y.mean().item() - x[0].item()) < 5 * 0.5 / 20_000**0.5


def test_integers_stay() -> None:
    x = torch.arange(-5.0, 6.0)
    assert torch.equal(stochastic_round_ste_fn(None)(x), x)


def test_gradient_is_one() -> None:
    x = torch.randn(9, requires_grad=True)
    StochasticRoundSte()(x).sum().backward()
    assert torch.equal(x.grad, torch.ones(9))


def test_evaluation_rounds_to_nearest_if_deterministic() -> None:
    x = torch.randn(1000)
    assert torch.equal(StochasticRoundSte().eval()(x), x.round())
    assert not torch.equal(StochasticRoundSte(deterministic_inference=False).eval()(x), x.round())


def test_seed_makes_it_repeatable() -> None:
    x = torch.randn(1000)
    first, second = StochasticRoundSte(seed=7), StochasticRoundSte(seed=7)
    assert torch.equal(first(x), second(x))
    assert torch.equal(copy.deepcopy(first)(x), second(x))


def test_default_generator_obeys_manual_seed() -> None:
    x, rounding = torch.randn(1000), StochasticRoundSte()
    torch.manual_seed(1)
    y = rounding(x)
    torch.manual_seed(1)
    assert torch.equal(rounding(x), y)


def test_compiled_as_one_graph() -> None:
    x = torch.randn(50)
    y = torch.compile(StochasticRoundSte(), fullgraph=True, backend="aot_eager")(x)
    assert ((y - x).abs() < 1).all() and torch.equal(y, y.trunc())
