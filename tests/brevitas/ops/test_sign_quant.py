"""The fused sign operation against the same formula in plain PyTorch, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from brevitas.ops.sign_quant import SignPlan, sign_quant, to_sign

STRAIGHT, SATURATING, TERNARY = SignPlan(), SignPlan(saturates=True), SignPlan(threshold=0.5)
PLANS = [STRAIGHT, SATURATING, TERNARY]
every_plan = pytest.mark.parametrize("plan", PLANS, ids=["straight", "saturating", "ternary"])
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def reference(x: Tensor, scale: Tensor, plan: SignPlan) -> Tensor:
    """The same quantizer, spelled out: autograd derives the gradients."""
    learned = x
    if plan.saturates:
        bounded_below = torch.where(x < -scale, -scale, x)
        learned = torch.where(bounded_below > scale, scale, bounded_below)
    sign = torch.where(x >= 0, 1.0, -1.0).to(x)
    integer = learned + (sign - learned).detach()
    if plan.threshold is not None:
        integer = torch.where(x.abs() > plan.threshold * scale, integer, 0.0)
    return integer * scale


def operands(per_channel: bool, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Fresh leaves: values inside of the range, on its bounds, beyond them, and zeros."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 40, generator=generator, dtype=torch.float64) * 2
    x[:, :4] = torch.tensor([0.0, -0.0, 0.5, -0.5])
    scale = torch.full((3, 1) if per_channel else (1,), 0.5, dtype=torch.float64)
    if per_channel:
        scale = scale * 2.0 ** torch.arange(3).reshape(3, 1)
    return x.to(dtype).requires_grad_(), scale.to(dtype).requires_grad_()


@every_plan
@pytest.mark.parametrize("per_channel", [False, True])
def test_values_and_gradients(plan: SignPlan, per_channel: bool) -> None:
    leaves = operands(per_channel)
    actual, expected = sign_quant(*leaves, plan), reference(*leaves, plan)
    # The reference spells the sign as x + (sign(x) - x): one rounding error in 64 bits.
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    weight = torch.randn(actual.shape, dtype=actual.dtype)
    pairs = zip(
        torch.autograd.grad(actual, leaves, weight),
        torch.autograd.grad(expected, leaves, weight),
        strict=True,
    )
    for grad, expected_grad in pairs:
        # Sums of 120 terms of order 1, in two orders of addition.
        torch.testing.assert_close(grad, expected_grad, rtol=0, atol=120 * 16 * 2.3e-16)


@every_plan
def test_second_derivatives(plan: SignPlan) -> None:
    leaves = operands(True)

    def twice(function: object) -> tuple[Tensor, ...]:
        value = function(*leaves, plan)
        first = torch.autograd.grad((value**3).sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum((g * (g.detach() + 1)).sum() for g in first), leaves)

    for actual, expected in zip(twice(sign_quant), twice(reference), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9])
def test_integers(threshold: float) -> None:
    x, scale = torch.linspace(-3.0, 3.0, 49), torch.tensor(0.25)
    expected = torch.where(x.abs() > threshold * scale, torch.sign(x), 0.0)
    assert torch.equal(to_sign(x, scale, threshold), expected)
    assert torch.equal(to_sign(x, scale, None), torch.where(x >= 0, 1.0, -1.0))


def test_half_a_step_rounds_to_the_nearest_integer() -> None:
    x, scale = torch.randn(1000), torch.tensor(0.25)
    assert torch.equal(to_sign(x, scale, 0.5), (x / scale).round().clamp(-1, 1))


@every_plan
@pytest.mark.parametrize("dtype", FLOATS)
def test_not_a_number_stays_and_infinities_have_signs(plan: SignPlan, dtype: torch.dtype) -> None:
    x = torch.tensor([float("nan"), float("inf"), -float("inf")], dtype=dtype, requires_grad=True)
    y = sign_quant(x, torch.tensor(0.5), plan)
    assert y.dtype is dtype and y[0].isnan() and y[1:].tolist() == [0.5, -0.5]
    y.sum().backward()
    stopped = {STRAIGHT: [0.5, 0.5, 0.5], SATURATING: [0.0, 0.0, 0.0], TERNARY: [0.0, 0.5, 0.5]}
    assert x.grad.tolist() == stopped[plan]


@every_plan
def test_an_infinite_gradient_is_stopped_with_its_element(plan: SignPlan) -> None:
    x = torch.tensor([0.1, 9.0], requires_grad=True)
    y = sign_quant(x, torch.tensor(0.5), plan)
    y.backward(torch.full_like(y, float("inf")))
    passes = {STRAIGHT: [True, True], SATURATING: [True, False], TERNARY: [False, True]}[plan]
    assert x.grad.tolist() == [float("inf") if passing else 0.0 for passing in passes]


@every_plan
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(plan: SignPlan, dtype: torch.dtype) -> None:
    scale = torch.tensor(0.0173)
    half = torch.randn(1000).to(dtype).requires_grad_()
    wide = half.detach().float().requires_grad_()
    y, expected = sign_quant(half, scale, plan), sign_quant(wide, scale, plan)
    assert y.dtype is dtype and torch.equal(y, expected.to(dtype))
    y.sum().backward(), expected.sum().backward()
    assert half.grad.dtype is dtype and torch.equal(half.grad, wide.grad.to(dtype))


@every_plan
def test_a_scale_of_more_dimensions_than_x(plan: SignPlan) -> None:
    x = torch.tensor(0.4, requires_grad=True)
    y = sign_quant(x, torch.tensor([0.5]), plan)
    assert y.tolist() == [0.5]
    y.sum().backward()
    assert x.grad.shape == ()


@every_plan
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4)])
def test_empty(plan: SignPlan, shape: tuple[int, ...]) -> None:
    x, scale = torch.zeros(shape, requires_grad=True), torch.tensor(0.5, requires_grad=True)
    y = sign_quant(x, scale, plan)
    y.sum().backward()
    assert y.shape == x.grad.shape == shape and scale.grad.item() == 0.0


@every_plan
def test_arguments_are_not_written_to(plan: SignPlan) -> None:
    x, scale = (leaf.detach() for leaf in operands(True))
    copies = x.clone(), scale.clone()
    sign_quant(x, scale, plan)
    assert torch.equal(x, copies[0]) and torch.equal(scale, copies[1])


def _saved_bytes(plan: SignPlan, scale: Tensor) -> int:
    x = torch.randn(1024, requires_grad=True)
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        sign_quant(x, scale, plan)
    return sum(saved.values())


def test_saves_at_most_its_input() -> None:
    constant, learned = torch.tensor(0.5), torch.tensor(0.5, requires_grad=True)
    x_bytes, scale_bytes = 1024 * 4, 4
    assert _saved_bytes(STRAIGHT, constant) == scale_bytes
    for plan, scale in ((STRAIGHT, learned), (SATURATING, constant), (TERNARY, constant)):
        assert _saved_bytes(plan, scale) == x_bytes + scale_bytes


@every_plan
def test_function_transforms(plan: SignPlan) -> None:
    x, scale = (leaf.detach() for leaf in operands(True))
    rows = torch.func.vmap(lambda row, scale: sign_quant(row, scale, plan))(x, scale)
    assert torch.equal(rows, sign_quant(x, scale, plan))

    def loss(function: object, x: Tensor, scale: Tensor) -> Tensor:
        return (function(x, scale, plan) ** 3).sum()

    for transform in (
        lambda function: torch.func.grad(lambda *a: loss(function, *a), argnums=(0, 1)),
        lambda function: torch.func.vmap(
            torch.func.grad(lambda *a: loss(function, *a), argnums=(0, 1))
        ),
    ):
        pairs = zip(transform(sign_quant)(x, scale), transform(reference)(x, scale), strict=True)
        for actual, expected in pairs:
            torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_forward_mode_is_refused() -> None:
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(torch.randn(3), torch.ones(3))
        with pytest.raises(RuntimeError, match="jvp"):
            sign_quant(dual, torch.tensor(0.5), STRAIGHT)


@every_plan
@pytest.mark.parametrize("learned", [False, True])
def test_compiled_equals_eager(plan: SignPlan, learned: bool) -> None:
    x, scale = operands(True, torch.float32)
    scale = scale if learned else scale.detach()
    compiled = torch.compile(sign_quant, fullgraph=True, backend="aot_eager")
    leaves = [x, scale] if learned else [x]
    weight = torch.linspace(-1, 1, x.numel()).reshape(x.shape)
    expected, actual = sign_quant(x, scale, plan), compiled(x, scale, plan)
    assert torch.equal(actual, expected)
    for grad, expected_grad in zip(
        torch.autograd.grad(actual, leaves, weight),
        torch.autograd.grad(expected, leaves, weight),
        strict=True,
    ):
        # Sums of 40 terms of at most 2, in another order.
        torch.testing.assert_close(grad, expected_grad, rtol=0, atol=40 * 2 * 1.2e-7)
    torch._dynamo.reset()
