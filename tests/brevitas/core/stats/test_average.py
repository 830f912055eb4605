"""Averaging statistics against plain formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from brevitas import config
from brevitas.core.stats import AbsAve, L1Norm, L2Norm, MeanLearnedSigmaStd, MeanSigmaStd
from brevitas.core.stats.stats_op import DEFAULT_STD_DEV_EPSILON


def _reduced(x: Tensor, dim: int | None) -> tuple[Tensor, int]:
    return (x.abs().flatten(), 0) if dim is None else (x.abs(), dim)


def _mean_sigma(x: Tensor, dim: int | None, sigma: float) -> Tensor:
    magnitude, dim = _reduced(x, dim)
    variance = magnitude.var(dim) + DEFAULT_STD_DEV_EPSILON
    return magnitude.mean(dim) + sigma * variance.sqrt()


def _check(module: nn.Module, reference, x: Tensor) -> None:
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, expected = module(a), reference(b)
    y.sum().backward()
    expected.sum().backward()
    # float64 sums of fewer than 100 terms
    assert y.shape == expected.shape
    assert torch.allclose(y, expected, rtol=100 * 2**-52)
    assert torch.allclose(a.grad, b.grad, rtol=1000 * 2**-52, atol=1000 * 2**-52)


@pytest.mark.parametrize("dim", [None, 0, 1, -1])
def test_value_and_gradient(dim: int | None) -> None:
    x = torch.randn(6, 8, dtype=torch.float64)
    _check(AbsAve(dim), lambda z: z.abs().mean() if dim is None else z.abs().mean(dim), x)
    _check(MeanSigmaStd(2.5, dim), lambda z: _mean_sigma(z, dim, 2.5), x)
    learned = MeanLearnedSigmaStd(2.5, (), dim, dtype=torch.float64)
    _check(learned, lambda z: _mean_sigma(z, dim, 2.5), x)
    keep = dim is not None
    axes = (0, 1) if dim is None else dim
    _check(L1Norm(dim), lambda z: z.abs().sum(axes, keepdim=keep), x)
    _check(L2Norm(dim), lambda z: z.pow(2).sum(axes, keepdim=keep).sqrt(), x)


def test_gradient_of_the_learned_sigma_is_the_deviation() -> None:
    x = torch.randn(5, 8)
    statistic = MeanLearnedSigmaStd(2.0, (5,), 1)
    statistic(x).sum().backward()
    assert torch.allclose(statistic.value.grad, x.abs().std(1), rtol=1e-5)


def test_checkpoint_key_of_the_learned_sigma() -> None:
    statistic = MeanLearnedSigmaStd(2.0, (5, 1), 1)
    assert {k: v.shape for k, v in statistic.state_dict().items()} == {"value": (5, 1)}
    with pytest.raises(RuntimeError, match="value"):
        statistic.load_state_dict({})
    with config.overrides(IGNORE_MISSING_KEYS=True):
        statistic.load_state_dict({})


def test_a_single_element_deviates_by_nothing() -> None:
    # sqrt(0 + epsilon) = 1e-4
    assert abs(MeanSigmaStd(2.0)(torch.tensor([3.0])).item() - 3.0002) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("statistic", [AbsAve(1), MeanSigmaStd(2.0, 1), L2Norm(1)])
def test_half_precision_is_rounded_once(statistic: nn.Module, dtype: torch.dtype) -> None:
    x = torch.randn(4, 500).to(dtype)
    y = statistic(x)
    assert y.dtype == dtype
    assert torch.equal(y, statistic(x.float()).to(dtype))


def test_gradient_of_a_constant_tensor_is_finite() -> None:
    x = torch.ones(9, requires_grad=True)
    MeanSigmaStd(2.0)(x).backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("norm", [L1Norm, L2Norm])
def test_norms_are_correct_to_the_last_place(norm: type[torch.nn.Module]) -> None:
    """Whatever the number of summands: 100000 of them, and one that swallows a float32 sum."""
    x = torch.full((2, 100_001), 0.1)
    x[:, 0] = 1e7
    exact = torch.linalg.vector_norm(x.double(), norm._order, dim=1, keepdim=True)
    assert torch.equal(norm(1)(x), exact.float())
