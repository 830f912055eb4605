"""Statistics of extreme values against plain formulas."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from brevitas.core.stats import (
    AbsMax,
    AbsMaxAve,
    AbsMaxL2,
    AbsMinMax,
    NegativeMinOrZero,
    SignedAbsMax,
)

# torch 2.13 raises it inside of dynamo, for every autograd function (found 2026-11-22).
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def _max(x: Tensor, dim: int | None) -> Tensor:
    return x.max() if dim is None else x.max(dim)[0]


def _min(x: Tensor, dim: int | None) -> Tensor:
    return x.min() if dim is None else x.min(dim)[0]


def _signed(x: Tensor, dim: int | None) -> Tensor:
    flat, dim = (x.flatten(), 0) if dim is None else (x, dim)
    return -flat.gather(dim, flat.abs().argmax(dim, keepdim=True)).squeeze(dim)


REFERENCES: dict[type[nn.Module], Callable[[Tensor, int | None], Tensor]] = {
    AbsMax: lambda x, dim: _max(x.abs(), dim),
    AbsMinMax: lambda x, dim: _max(x, dim) - _min(x, dim).clamp(max=0),
    NegativeMinOrZero: lambda x, dim: _min(x, dim).clamp(max=0),
    SignedAbsMax: _signed,
}


def _value_and_gradient(function: Callable, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().clone().requires_grad_()
    y = function(x)
    y.backward(torch.arange(1.0, y.numel() + 1).reshape(y.shape).to(y.dtype))
    return y.detach(), x.grad


@pytest.mark.parametrize("statistic", REFERENCES)
@pytest.mark.parametrize("dim", [None, 0, 1, 2, -1])
@pytest.mark.parametrize("offset", [0.0, 9.0, -9.0])
def test_value_and_gradient(statistic: type[nn.Module], dim: int | None, offset: float) -> None:
    x = torch.randn(3, 4, 5) + offset
    y, gradient = _value_and_gradient(statistic(dim), x)
    expected, expected_gradient = _value_and_gradient(lambda z: REFERENCES[statistic](z, dim), x)
    assert torch.equal(y, expected)
    assert torch.equal(gradient, expected_gradient)
    assert torch.equal(statistic(dim)(x), y)


@pytest.mark.parametrize("statistic", REFERENCES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types_are_kept_and_exact(statistic: type[nn.Module], dtype: torch.dtype) -> None:
    x = torch.randn(6, 7).to(dtype)
    y = statistic(1)(x)
    assert y.dtype == dtype
    assert torch.equal(y.double(), REFERENCES[statistic](x.double(), 1).to(dtype).double())


@pytest.mark.parametrize("statistic", REFERENCES)
def test_keepdim(statistic: type[nn.Module]) -> None:
    assert statistic(1, keepdim=True)(torch.randn(3, 4, 5)).shape == (3, 1, 5)
    with torch.no_grad():
        assert statistic(1, keepdim=True)(torch.randn(3, 4, 5)).shape == (3, 1, 5)


def test_ties_share_the_gradient_of_the_whole_tensor() -> None:
    _, gradient = _value_and_gradient(AbsMax(), torch.tensor([-3.0, 3.0, 1.0, 3.0]))
    assert torch.allclose(gradient, torch.tensor([-1.0, 1.0, 0.0, 1.0]) / 3)


def test_zeros_get_no_gradient() -> None:
    y, gradient = _value_and_gradient(AbsMax(), torch.zeros(4))
    assert y.item() == 0.0 and not gradient.any()


@pytest.mark.parametrize("statistic", [AbsMax, AbsMinMax, NegativeMinOrZero])
def test_nan_is_not_hidden(statistic: type[nn.Module]) -> None:
    assert statistic()(torch.tensor([1.0, float("nan"), -2.0])).isnan()


@pytest.mark.parametrize("statistic", [AbsMaxAve, AbsMaxL2])
def test_averages_of_largest_magnitudes(statistic: type[nn.Module]) -> None:
    def reference(x: Tensor) -> Tensor:
        largest = x.abs().max(1)[0]
        return largest.mean() if statistic is AbsMaxAve else largest.pow(2).mean().sqrt()

    x = torch.randn(6, 7, dtype=torch.float64)
    y, gradient = _value_and_gradient(statistic(1), x)
    expected, expected_gradient = _value_and_gradient(reference, x)
    # 6 terms: fewer than 10 roundings
    assert torch.allclose(y, expected, rtol=10 * 2**-52)
    assert torch.allclose(gradient, expected_gradient, rtol=20 * 2**-52, atol=0)


def test_scaling_the_input_scales_the_statistic() -> None:
    x = torch.randn(5, 9)
    for statistic in (*REFERENCES, AbsMaxAve, AbsMaxL2):
        assert torch.allclose(statistic(1)(x * 4), statistic(1)(x) * 4, rtol=2**-22)


@pytest.mark.parametrize("dim", [None, 1])
def test_compiled_as_one_graph(dim: int | None) -> None:
    def everything(x: Tensor) -> Tensor:
        return sum(statistic(dim)(x) for statistic in REFERENCES)

    x = torch.randn(3, 8)
    y, gradient = _value_and_gradient(everything, x)
    compiled = torch.compile(everything, fullgraph=True, backend="aot_eager")
    z, compiled_gradient = _value_and_gradient(compiled, x)
    assert torch.equal(y, z) and torch.equal(gradient, compiled_gradient)


def test_vmap_and_second_derivative() -> None:
    x = torch.randn(3, 4, 5)
    assert torch.equal(torch.func.vmap(AbsMax())(x), x.abs().amax((1, 2)))
    z = torch.randn(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda t: AbsMax()(t) ** 2, z)
