"""A quantizer that writes into a buffer equals the fused one, and so do its gradients."""

from __future__ import annotations

import pytest
import torch

from brevitas.ops.fake_quant import FakeQuantPlan, fake_quant
from brevitas.ops.quantize_into import QuantizeGradients, quantize_into

FUNCTIONS = [None, torch.sigmoid, torch.tanh]


def operands(shape, shifted, learned, dtype=torch.float32):
    scale = torch.rand(shape, dtype=dtype) / 5 + 0.05
    shift = torch.full(shape, 1.0, dtype=dtype) if shifted else None
    bounds = [torch.tensor(b, dtype=dtype) if learned else b for b in (-4.0, 5.0)]
    return scale, shift, *bounds


@pytest.mark.parametrize("rounding", ["ROUND", "CEIL", "FLOOR", "ROUND_TO_ZERO"])
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("shape", [(), (1, 1), (4, 1)])
@pytest.mark.parametrize("learned", [False, True])
def test_values(rounding, function, shape, learned):
    torch.manual_seed(0)
    fields, plan = operands(shape, learned, learned), FakeQuantPlan(rounding)
    x = 3 * torch.randn(6, 4, 16)
    x[0, 0, :3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    expected = fake_quant(x if function is None else function(x), *fields, plan)
    write = quantize_into(function, *fields, plan, x, 1)
    out = torch.empty_like(x)
    write(x, out)
    torch.testing.assert_close(out, expected, rtol=0, atol=0, equal_nan=True)
    write(x, x)
    torch.testing.assert_close(x, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_nothing_to_quantize(function):
    x, out = torch.randn(6), torch.empty(6)
    quantize_into(function, None, None, 0.0, 0.0, None, x)(x, out)
    assert torch.equal(out, x if function is None else function(x))


def test_what_needs_memory_of_its_own():
    x, scale, plan = torch.randn(2, 3), torch.tensor(0.5), FakeQuantPlan()
    limits = (-8.0, 7.0)
    assert quantize_into(None, scale, None, *limits, FakeQuantPlan("DPU"), x) is None
    assert quantize_into(None, scale.double(), None, *limits, plan, x) is None
    assert quantize_into(None, scale.expand(3), None, *limits, plan, x) is None
    assert quantize_into(None, scale.expand(3, 1), None, *limits, plan, x, 0) is None
    assert quantize_into(None, scale, None, *limits, plan, x.bfloat16()) is None
    assert quantize_into(torch.relu, scale, None, *limits, plan, x) is None


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("shape", [(), (1,), (4, 1)])
def test_gradients(function, shape):
    torch.manual_seed(0)
    fields, plan = operands(shape, False, False, torch.float64), FakeQuantPlan()
    x = 2 * torch.randn(3, 4, 2, 5, dtype=torch.float64)
    x[0, 0, 0, 0] = float("inf")
    grad = torch.randn_like(x)
    write = quantize_into(function, *fields, plan, x[0], 0)
    quantizer, out = QuantizeGradients(write, x[0], sums=True), torch.empty_like(x[0])
    leaf, scale = x.clone().requires_grad_(), fields[0].clone().requires_grad_()
    shaped = scale[:, :, None] if shape == (4, 1) else scale
    y = fake_quant(leaf if function is None else function(leaf), shaped, *fields[1:], plan)
    expected = torch.autograd.grad(y, (leaf, scale), grad)
    for part, given, values, found in zip(x, grad, y, expected[0], strict=True):
        assert torch.equal(quantizer.forward(part), values)
        torch.testing.assert_close(quantizer.backward(given, out), found)
    # float64: a few roundings of sums of 120 terms.
    torch.testing.assert_close(quantizer.of_scale(fields[0]), expected[1], rtol=1e-10, atol=1e-12)


def test_gradient_that_is_broadcast_and_overwritten():
    x, scale = torch.randn(2, 3), torch.tensor(0.1)
    write = quantize_into(None, scale, None, -4.0, 5.0, FakeQuantPlan(), x)
    quantizer, grad = QuantizeGradients(write, x, sums=False), torch.randn(3)
    quantizer.forward(x)
    expected = quantizer.backward(grad, torch.empty(2, 3)).clone()
    wide = grad.repeat(2, 1)
    assert torch.equal(quantizer.backward(wide, wide), expected)


@pytest.mark.parametrize("limit", [5.0, 2.0**23])
@pytest.mark.parametrize("passes", [False, True])
@pytest.mark.parametrize(("shifted", "learned"), [(False, False), (True, False), (False, True)])
def test_supported_quantizers(limit, passes, shifted, learned):
    scale, shift, *_ = operands((), shifted, False)
    limits = [torch.tensor(b) if learned else b for b in (-limit, limit)]
    plan = FakeQuantPlan("ROUND", passes)
    write = quantize_into(None, scale, shift, *limits, plan, torch.empty(2))
    is_simple = limit == 5.0 and not (passes or shifted or learned)
    assert QuantizeGradients.supports(write, plan) is is_simple
