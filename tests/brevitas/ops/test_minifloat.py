"""The fused operation rounds to the bit, and its gradient is the written one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from brevitas.ops.fake_quant import ROUNDING_MODES
from brevitas.ops.minifloat import MinifloatPlan, minifloat_quant, overflow_to, to_minifloat
from minifloats import Format, every_half, same, sampled

ONE = torch.tensor(1.0)
FORMATS = [
    Format(exponent, mantissa, bias, largest, signed=signed)
    for exponent, mantissa, bias, largest in [
        *((1, 0, 0, None), (1, 3, 1, None), (2, 0, 1, None), (3, 0, 3, None), (2, 1, 1, None)),
        *((4, 3, 7, 448.0), (5, 2, 15, 57344.0), (5, 10, 15, 65504.0), (6, 1, 31, None)),
        *((3, 4, -2, None), (4, 2, 20, None), (8, 7, 127, float(torch.finfo(torch.bfloat16).max))),
        (8, 23, 127, float(torch.finfo(torch.float32).max)),
    ]
    for signed in (True, False)
]


def plan_of(fmt: Format, **changed: object) -> MinifloatPlan:
    lower = -fmt.upper if fmt.signed else 0.0
    plan = (fmt.mantissa, 1 - fmt.bias - fmt.mantissa, lower, fmt.upper)
    return MinifloatPlan(*plan, **changed)


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_format_rounds_exactly(fmt: Format, dtype: torch.dtype) -> None:
    x = every_half(dtype) if dtype.itemsize == 2 else sampled(dtype)
    expected = fmt.reference(x.double().numpy())
    assert same(to_minifloat(x, ONE.to(dtype), plan_of(fmt)), expected)


@pytest.mark.parametrize("rounding", ROUNDING_MODES)
def test_roundings(rounding: str) -> None:
    fmt = Format(4, 3, 7, 448.0)
    x = torch.linspace(-500.0, 500.0, 4001)
    step = torch.tensor([2.0 ** (max(math.frexp(v)[1] - 1, -6) - 3) for v in x.tolist()])
    expected = (ROUNDING_MODES[rounding](x / step) * step).clamp(-448, 448)
    assert torch.equal(to_minifloat(x, ONE, plan_of(fmt, rounding=rounding)), expected)


def test_the_scale_is_divided_and_multiplied() -> None:
    x, scale = torch.randn(4, 50) * 30, torch.tensor([[0.3], [1.7], [2.0], [0.01]])
    fmt = Format(4, 3, 7, 448.0)
    u = (x / scale).double().numpy()
    assert same(to_minifloat(x, scale, plan_of(fmt)), fmt.reference(u))
    expected = torch.tensor(fmt.reference(u)).float() * scale
    assert torch.equal(minifloat_quant(x, scale, plan_of(fmt)), expected)
    # A value that is repeated for several scales.
    wide = minifloat_quant(x[:1], scale, plan_of(fmt))
    assert torch.equal(wide, minifloat_quant(x[:1].expand(4, 50).clone(), scale, plan_of(fmt)))


def test_integers_are_real_values_of_the_scale() -> None:
    fmt, x = Format(3, 1, 3, None), torch.arange(-30, 30)
    assert torch.equal(
        minifloat_quant(x, ONE, plan_of(fmt)), minifloat_quant(x.float(), ONE, plan_of(fmt))
    )


# Gradients ---------------------------------------------------------------------------------------

PLANS = {
    "clamped": plan_of(Format(4, 3, 7, 448.0)),
    "passing": plan_of(Format(4, 3, 7, 448.0), clamp_passes_gradient=True),
    "unsigned": plan_of(Format(3, 2, 3, None, signed=False)),
    "overflowing": plan_of(Format(4, 3, 7, 448.0), above=math.nan, below=math.nan),
}


def written_gradients(x: Tensor, scale: Tensor, plan: MinifloatPlan) -> tuple[Tensor, Tensor]:
    """``d y / d x`` and ``d y / d scale`` of each element, by the formula, element by element."""
    to_x, to_scale = [], []
    for u in (x / scale).flatten().tolist():
        exponent = math.frexp(u)[1] - 1 if u else -1000
        is_normal = exponent - plan.mantissa_bit_width >= plan.smallest_step
        step = 2.0 ** max(exponent - plan.mantissa_bit_width, plan.smallest_step)
        rounded = round(u / step) * step
        slope = rounded / u if is_normal else 1.0
        limited = min(max(rounded, plan.lower), plan.upper)
        if limited != rounded and plan.above is not None:
            slope, limited = 0.0, math.nan
        elif limited != rounded and not plan.clamp_passes_gradient:
            slope = 0.0
        to_x.append(slope)
        to_scale.append(limited - slope * u)
    shape = x.shape
    return tuple(torch.tensor(g, dtype=x.dtype).reshape(shape) for g in (to_x, to_scale))


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_gradients_are_the_written_formula(plan: MinifloatPlan) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 200, generator=generator, dtype=torch.float64)
    x = (x * torch.tensor([[0.003], [1.0], [500.0]], dtype=torch.float64)).requires_grad_()
    scale = torch.tensor([[0.7], [0.01], [1.3]], dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 200, generator=generator, dtype=torch.float64)
    minifloat_quant(x, scale, plan).backward(weight)
    to_x, to_scale = written_gradients(x.detach(), scale.detach(), plan)
    torch.testing.assert_close(x.grad, weight * to_x)
    expected = (weight * to_scale).sum(1, keepdim=True)
    # A sum of 200 numbers of up to 448 times 3.
    torch.testing.assert_close(scale.grad, expected, rtol=1e-12, atol=1e-10, equal_nan=True)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_infinities_pass_no_gradient(plan: MinifloatPlan) -> None:
    x = torch.tensor([math.inf, -math.inf, math.nan, 1.0], requires_grad=True)
    minifloat_quant(x, ONE, plan).nan_to_num(0.0).sum().backward()
    assert x.grad.tolist() == [0.0, 0.0, 0.0, 1.0]


def test_the_gradient_is_linear_in_the_gradient() -> None:
    plan, scale = PLANS["clamped"], torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    x = torch.tensor([0.3, -200.0, 1e-3, 900.0], dtype=torch.float64, requires_grad=True)
    upstream = torch.ones(4, dtype=torch.float64, requires_grad=True)
    grads = torch.autograd.grad(
        minifloat_quant(x, scale, plan), (x, scale), upstream, create_graph=True
    )
    assert all(g.requires_grad for g in grads)
    (second,) = torch.autograd.grad(grads[0].sum() + grads[1], upstream)
    to_x, to_scale = written_gradients(x.detach(), scale.detach(), plan)
    torch.testing.assert_close(second, to_x + to_scale)


@pytest.mark.parametrize("in_dims", [(0, None), (0, 0), (None, 0)])
def test_vmap(in_dims: tuple[int | None, int | None]) -> None:
    x, scale, plan = torch.randn(5, 6), torch.rand(5) + 0.1, PLANS["clamped"]
    x_in = x if in_dims[0] == 0 else x[0]
    scale_in = scale if in_dims[1] == 0 else scale[0]
    mapped = torch.func.vmap(lambda a, b: minifloat_quant(a, b, plan), in_dims)(x_in, scale_in)
    rows = [
        minifloat_quant(x[i] if in_dims[0] == 0 else x[0], scale[i if in_dims[1] == 0 else 0], plan)
        for i in range(5)
    ]
    assert torch.equal(mapped, torch.stack(rows))


def test_nothing_is_written_to_the_input() -> None:
    x, scale = torch.randn(100), torch.tensor(0.1)
    before = x.clone()
    minifloat_quant(x, scale, PLANS["clamped"])
    assert torch.equal(x, before)


def test_without_gradient_nothing_is_saved() -> None:
    x = torch.randn(10, requires_grad=True)
    with torch.no_grad():
        assert minifloat_quant(x, ONE, PLANS["clamped"]).grad_fn is None


def test_overflow_without_a_code_changes_nothing() -> None:
    x = torch.ones(3)
    assert overflow_to(x, torch.tensor([True, False, True]), None) is x
