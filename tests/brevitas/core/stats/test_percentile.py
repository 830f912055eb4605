"""Percentile statistics against a sort."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from brevitas.core.stats import AbsPercentile, NegativePercentileOrZero, PercentileInterval


def _sorted_rows(x: Tensor, dim: int | None) -> Tensor:
    return (x.flatten() if dim is None else x.movedim(dim, -1)).sort(dim=-1)[0]


def _nearest(x: Tensor, dim: int | None, q: float) -> Tensor:
    ordered = _sorted_rows(x, dim)
    length = ordered.shape[-1]
    return ordered[..., min(max(math.floor(0.01 * q * length + 0.5), 1), length) - 1]


def _upper(x: Tensor, dim: int | None, q: float) -> Tensor:
    ordered = _sorted_rows(x, dim)
    length = ordered.shape[-1]
    return ordered[..., min(max(math.ceil(0.01 * q * length), 1), length) - 1]


@pytest.mark.parametrize("shape", [(1,), (37,), (6, 50), (3, 4, 5), (2, 9000)])
@pytest.mark.parametrize("q", [0.0, 10.0, 50.0, 90.0, 99.9, 99.999, 100.0])
def test_values(shape: tuple[int, ...], q: float) -> None:
    x = torch.randn(shape)
    for dim in (None, *range(-1, x.dim())):
        assert torch.equal(AbsPercentile(q, dim)(x), _nearest(x.abs(), dim, q))
        low = _upper(x, dim, 100 - q).clamp(max=0)
        assert torch.equal(NegativePercentileOrZero(100 - q, dim)(x), low)
        high = _nearest(x, dim, q)
        assert torch.equal(PercentileInterval(100 - q, q, dim)(x), (high - low).abs())


@pytest.mark.parametrize("dim", [None, 0, 1])
def test_gradient_goes_to_the_selected_elements(dim: int | None) -> None:
    x = torch.randn(5, 60)
    for statistic, reference in (
        (AbsPercentile(90.0, dim), lambda z: _nearest(z.abs(), dim, 90.0)),
        (NegativePercentileOrZero(10.0, dim), lambda z: _upper(z, dim, 10.0).clamp(max=0)),
        (
            PercentileInterval(10.0, 90.0, dim),
            lambda z: (_nearest(z, dim, 90.0) - _upper(z, dim, 10.0).clamp(max=0)).abs(),
        ),
    ):
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        statistic(a).sum().backward()
        reference(b).sum().backward()
        assert torch.equal(a.grad, b.grad)


def test_keepdim() -> None:
    x = torch.randn(3, 4, 5)
    assert AbsPercentile(90.0, 1, keepdim=True)(x).shape == (3, 1, 5)
    assert PercentileInterval(10.0, 90.0, -1, keepdim=True)(x).shape == (3, 4, 1)
    assert NegativePercentileOrZero(10.0, None, keepdim=True)(x).shape == ()


def test_nan_counts_as_largest() -> None:
    x = torch.tensor([1.0, float("nan"), 3.0, 2.0])
    assert AbsPercentile(99.0)(x).isnan() and AbsPercentile(50.0)(x).item() == 2.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_exact(dtype: torch.dtype) -> None:
    x = torch.randn(9000).to(dtype)
    assert torch.equal(AbsPercentile(99.9)(x), AbsPercentile(99.9)(x.float()).to(dtype))


def test_empty_input_says_so() -> None:
    with pytest.raises(ValueError, match=r"\(0,\).*at least one element"):
        AbsPercentile(90.0)(torch.zeros(0))


@pytest.mark.parametrize("q", [None, -0.1, 100.1, float("nan")])
def test_wrong_percentage(q: float | None) -> None:
    with pytest.raises(ValueError, match="high_percentile_q=.*from 0 to 100"):
        AbsPercentile(q)


def test_older_name_of_the_percentage() -> None:
    assert AbsPercentile(percentile_q=90.0).q == 90.0


def test_compiled_as_one_graph() -> None:
    def everything(x: Tensor) -> Tensor:
        interval = PercentileInterval(0.1, 99.9, 1)(x)
        return AbsPercentile(99.9)(x) + AbsPercentile(50.0, 1)(x) + interval

    compiled = torch.compile(everything, fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 5000)
    assert torch.equal(compiled(x), everything(x))


def test_compiled_for_every_length() -> None:
    statistic = AbsPercentile(90.0)
    compiled = torch.compile(statistic, fullgraph=True, backend="aot_eager", dynamic=True)
    for length in (50, 60):
        x = torch.randn(length)
        assert torch.equal(compiled(x), statistic(x))
