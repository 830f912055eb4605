"""A tensor on the grid of its own largest magnitude, against the parts of the operation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from brevitas.ops._operands import FakeQuantPlan
from brevitas.ops.self_scaled import SelfScaledPlan, requantizer_of, self_scaled_quant

THRESHOLD = torch.tensor(7.0, dtype=torch.float64)
KINDS = {"whole": (False, ()), "rows": (True, (6, 1, 1)), "one row": (True, (1, 1, 1))}


def plan(kind: str, passes: bool = True, limit: float = 7.0) -> SelfScaledPlan:
    by_row, shape = KINDS[kind]
    how = FakeQuantPlan(clamp_passes_gradient=passes)
    return SelfScaledPlan(how, -limit, limit, 1e-3, by_row, shape)


def data(kind: str) -> Tensor:
    shape = (1, 4, 5) if kind == "one row" else (6, 4, 5)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def reference(x: Tensor, how: SelfScaledPlan) -> tuple[Tensor, Tensor]:
    """The same, spelled out: autograd derives the gradients."""
    rows = x.reshape(x.shape[0], -1).abs()
    magnitude = rows.max(1, keepdim=True)[0] if how.by_row else rows.amax()
    scale = (magnitude.clamp_min(how.smallest) / THRESHOLD).view(how.scale_shape)
    integer = x / scale + ((x / scale).round() - x / scale).detach()
    clamped = integer.clamp(how.lower, how.upper)
    if how.plan.clamp_passes_gradient:
        clamped = integer + (clamped - integer).detach()
    return clamped * scale, scale


@pytest.mark.parametrize("limit", [7.0, 5.0])  # with the second, the largest elements are clamped
@pytest.mark.parametrize("passes", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_formula(kind: str, passes: bool, limit: float) -> None:
    how, x = plan(kind, passes, limit), data(kind)
    value, scale = self_scaled_quant(x, THRESHOLD, how)
    expected, expected_scale = reference(x, how)
    assert torch.equal(value, expected) and torch.equal(scale, expected_scale)
    weights = (torch.randn_like(value), torch.randn_like(scale))
    for chosen in ((0,), (1,), (0, 1)):
        picked = (
            [(value, scale)[i] for i in chosen],
            [(expected, expected_scale)[i] for i in chosen],
        )
        grads = [weights[i] for i in chosen]
        (actual,) = torch.autograd.grad(picked[0], x, grads, retain_graph=True)
        (wanted,) = torch.autograd.grad(picked[1], x, grads, retain_graph=True)
        # Sums of as many terms as elements, of at most seven steps, in another order.
        close = {"rtol": 0.0, "atol": 7 * x.numel() * torch.finfo(x.dtype).eps}
        torch.testing.assert_close(actual, wanted, **close)


def test_without_gradient() -> None:
    how, x = plan("rows"), data("rows")
    with torch.no_grad():
        value, scale = self_scaled_quant(x, THRESHOLD, how)
    assert value.grad_fn is None
    assert torch.equal(value, self_scaled_quant(x, THRESHOLD, how)[0])
    assert torch.equal(scale, self_scaled_quant(x, THRESHOLD, how)[1])


@pytest.mark.parametrize("kind", KINDS)
def test_second_gradient(kind: str) -> None:
    how, x = plan(kind), data(kind)
    first, second = (
        torch.autograd.grad(f.square().sum() + s.sum() ** 3, x, create_graph=True)[0]
        for f, s in (self_scaled_quant(x, THRESHOLD, how), reference(x, how))
    )
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(
        *(torch.autograd.grad(g.square().sum(), x)[0] for g in (first, second))
    )


def test_only_parameters_can_be_quantized_once_more() -> None:
    how, x = plan("whole"), data("whole")
    value, scale = self_scaled_quant(x, THRESHOLD, how)
    requantizer = requantizer_of(value)
    assert requantizer is not None
    assert torch.equal(requantizer.quantize(*requantizer.operands), value)
    with torch.no_grad():
        assert torch.equal(requantizer.quantize(*requantizer.operands), value)
    assert requantizer_of(self_scaled_quant(x * 2, THRESHOLD, how)[0]) is None
    assert requantizer_of(x) is None and requantizer_of(value * 2) is None
