"""The fused operation against the same formula in plain PyTorch, values and gradients."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from brevitas.ops import fake_quant as fake_quant_module
from brevitas.ops.fake_quant import ROUNDING_MODES, FakeQuantPlan, fake_quant, to_integer

NUMBERS = (-8.0, 7.0)
PLANS = [
    FakeQuantPlan(rounding, passes) for rounding, passes in product(ROUNDING_MODES, (False, True))
]


def _dpu(x: Tensor) -> Tensor:
    halves_below_zero = (x < 0) & (x - x.floor() == 0.5)
    return torch.where(halves_below_zero, x.ceil(), x.round())


_ROUND = {
    "ROUND": torch.round,
    "CEIL": torch.ceil,
    "FLOOR": torch.floor,
    "ROUND_TO_ZERO": torch.trunc,
    "DPU": _dpu,
}


def reference(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    lower: Tensor | float,
    upper: Tensor | float,
    plan: FakeQuantPlan,
) -> Tensor:
    """The same quantizer, spelled out: autograd derives the gradients."""
    zero_point = torch.zeros(()).to(x) if zero_point is None else zero_point
    lower, upper = torch.as_tensor(lower).to(x), torch.as_tensor(upper).to(x)
    shifted = x / scale + zero_point
    integer = shifted + (_ROUND[plan.rounding](shifted) - shifted).detach()
    clamped = torch.where(integer < lower, lower, torch.where(integer > upper, upper, integer))
    if plan.clamp_passes_gradient:
        clamped = integer + (clamped - integer).detach()
    return (clamped - zero_point) * scale


def _operands(
    per_channel: bool, tensor_bounds: bool, shifted: bool, dtype: torch.dtype = torch.float64
) -> tuple[Tensor | float | None, ...]:
    """Fresh leaves: values within and beyond the limits, halves of a step among them."""
    generator = torch.Generator().manual_seed(1)
    shape = (3, 1) if per_channel else ()
    # A power of two, so that halves of a step are exact and every rounding mode tells them apart.
    scale = torch.full(shape, 0.25, dtype=dtype)
    x = torch.randn(3, 40, generator=generator, dtype=dtype) * 2
    x[:, ::2] = (x[:, ::2] * 8).round() / 8
    if per_channel:
        scale = scale * 2.0 ** torch.arange(3, dtype=dtype).reshape(3, 1)
    zero_point = torch.full(shape, 3.0, dtype=dtype) if shifted else None
    bounds = [torch.tensor(b, dtype=dtype) if tensor_bounds else b for b in NUMBERS]
    operands = (x, scale, zero_point, *bounds)
    return tuple(o.requires_grad_() if isinstance(o, Tensor) else o for o in operands)


def _leaves(operands: tuple[Tensor | float | None, ...]) -> list[Tensor]:
    return [operand for operand in operands if isinstance(operand, Tensor)]


@pytest.mark.parametrize("plan", PLANS, ids=lambda p: f"{p.rounding}-{p.clamp_passes_gradient}")
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("tensor_bounds", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
def test_values_and_gradients(
    plan: FakeQuantPlan, per_channel: bool, tensor_bounds: bool, shifted: bool
) -> None:
    operands = _operands(per_channel, tensor_bounds, shifted)
    actual, expected = fake_quant(*operands, plan), reference(*operands, plan)
    # The reference spells the rounding as x + (round(x) - x): one rounding error in 64 bits.
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    weight = torch.randn(actual.shape, dtype=actual.dtype)
    leaves = _leaves(operands)
    expected_grads = torch.autograd.grad(expected, leaves, weight, allow_unused=True)
    for leaf, grad, expected_grad in zip(
        leaves,
        torch.autograd.grad(actual, leaves, weight, allow_unused=True),
        expected_grads,
        strict=True,
    ):
        grad = torch.zeros_like(leaf) if grad is None else grad
        expected_grad = torch.zeros_like(leaf) if expected_grad is None else expected_grad
        # Sums of 120 terms of order 1, in two orders of addition.
        torch.testing.assert_close(grad, expected_grad, rtol=0, atol=120 * 16 * 2.3e-16)


@pytest.mark.parametrize("passes", [False, True])
@pytest.mark.parametrize("tensor_bounds", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
def test_second_derivatives(passes: bool, tensor_bounds: bool, shifted: bool) -> None:
    plan = FakeQuantPlan("ROUND", passes)
    operands = _operands(True, tensor_bounds, shifted)
    leaves = _leaves(operands)

    def twice(function: object) -> list[Tensor]:
        value = function(*operands, plan)
        options = {"create_graph": True, "allow_unused": True}
        first = torch.autograd.grad((value**2).sum(), leaves, **options)
        sum_of_first = sum((g * (g.detach() + 1)).sum() for g in first if g is not None)
        second = torch.autograd.grad(sum_of_first, leaves, allow_unused=True)
        return [
            torch.zeros_like(leaf) if g is None else g
            for leaf, g in zip(leaves, second, strict=True)
        ]

    for actual, expected in zip(twice(fake_quant), twice(reference), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("rounding", ROUNDING_MODES)
def test_integers(rounding: str) -> None:
    x, scale = torch.linspace(-3.0, 3.0, 49), torch.tensor(0.25)
    integer = to_integer(x, scale, None, *NUMBERS, rounding)
    assert torch.equal(integer, _ROUND[rounding](x / scale).clamp(*NUMBERS))
    y = fake_quant(x, scale, None, *NUMBERS, FakeQuantPlan(rounding))
    assert torch.equal(y, integer * scale)


@pytest.mark.parametrize("tensor_bounds", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_not_a_number_stays_and_infinities_clamp(tensor_bounds: bool, dtype: torch.dtype) -> None:
    bounds = [torch.tensor(b) for b in NUMBERS] if tensor_bounds else NUMBERS
    x = torch.tensor([float("nan"), float("inf"), -float("inf")], dtype=dtype)
    for zero_point in (None, torch.tensor(2.0)):
        y = fake_quant(x, torch.tensor(0.5), zero_point, *bounds, FakeQuantPlan())
        shift = 0.0 if zero_point is None else 2.0
        assert y[0].isnan() and y[1:].tolist() == [(7.0 - shift) / 2, (-8.0 - shift) / 2]


def test_gradient_of_not_a_number_and_infinities() -> None:
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.1], requires_grad=True)
    scale = torch.tensor(0.5)
    fake_quant(x, scale, None, *NUMBERS, FakeQuantPlan()).sum().backward()
    assert x.grad.tolist() == [0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4)])
def test_empty(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape, requires_grad=True)
    scale = torch.tensor(0.5, requires_grad=True)
    y = fake_quant(x, scale, None, *NUMBERS, FakeQuantPlan())
    y.sum().backward()
    assert y.shape == x.grad.shape == shape and scale.grad.item() == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    x = torch.randn(1000).to(dtype)
    scale, zero_point = torch.tensor(0.0173), torch.tensor(5.0)
    plan = FakeQuantPlan()
    y = fake_quant(x, scale, zero_point, -128.0, 127.0, plan)
    wide = fake_quant(x.float(), scale, zero_point, -128.0, 127.0, plan)
    assert y.dtype is dtype and torch.equal(y, wide.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gradients_have_the_types_of_their_inputs(dtype: torch.dtype) -> None:
    x, scale = torch.randn(1000).to(dtype), torch.tensor(0.0173)
    half, wide = (
        (x.clone().requires_grad_(), scale.clone().requires_grad_()),
        (
            x.float().requires_grad_(),
            scale.clone().requires_grad_(),
        ),
    )
    for leaf_x, leaf_scale in (half, wide):
        y = fake_quant(leaf_x, leaf_scale, None, -64.0, 63.0, FakeQuantPlan())
        y.backward(torch.ones_like(y))
    assert half[0].grad.dtype is dtype and half[1].grad.dtype is torch.float32
    assert torch.equal(half[0].grad.float(), wide[0].grad)
    assert torch.equal(half[1].grad, wide[1].grad)


def test_arguments_are_not_written_to() -> None:
    operands = [o.detach() if isinstance(o, Tensor) else o for o in _operands(True, True, True)]
    copies = [o.clone() for o in operands]
    fake_quant(*operands, FakeQuantPlan())
    assert all(torch.equal(a, b) for a, b in zip(operands, copies, strict=True))


def _saved_bytes(plan: FakeQuantPlan, scale: Tensor) -> int:
    x = torch.randn(1024, requires_grad=True)
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        fake_quant(x, scale, None, *NUMBERS, plan)
    return sum(saved.values())


def test_saves_at_most_its_input() -> None:
    constant, learned = torch.tensor(0.5), torch.tensor(0.5, requires_grad=True)
    x_bytes, scale_bytes = 1024 * 4, 4
    assert _saved_bytes(FakeQuantPlan(clamp_passes_gradient=True), constant) == 0
    for passes, scale in ((False, constant), (False, learned), (True, learned)):
        plan = FakeQuantPlan(clamp_passes_gradient=passes)
        assert _saved_bytes(plan, scale) == x_bytes + scale_bytes


@pytest.mark.parametrize("passes", [False, True])
@pytest.mark.parametrize("tensor_bounds", [False, True])
def test_function_transforms(passes: bool, tensor_bounds: bool) -> None:
    plan = FakeQuantPlan(clamp_passes_gradient=passes)
    x, scale, zero_point, lower, upper = (
        o.detach() if isinstance(o, Tensor) else o for o in _operands(True, tensor_bounds, True)
    )

    def loss(function: object, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        return (function(x, scale, zero_point, lower, upper, plan) ** 2).sum()

    per_row = torch.func.vmap(
        lambda *row: fake_quant(*row, lower, upper, plan), in_dims=(0, 0, None)
    )(x, scale, zero_point[0])
    assert torch.equal(per_row, fake_quant(x, scale, zero_point, lower, upper, plan))

    arguments = (x, scale, zero_point)
    actual = torch.func.grad(lambda *a: loss(fake_quant, *a), argnums=(0, 1, 2))(*arguments)
    expected = torch.func.grad(lambda *a: loss(reference, *a), argnums=(0, 1, 2))(*arguments)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-10)

    per_sample = torch.func.vmap(
        torch.func.grad(lambda *a: loss(fake_quant, *a), argnums=(0, 1)), in_dims=(0, None, None)
    )(x, scale[0], zero_point[0])
    expected = torch.func.vmap(
        torch.func.grad(lambda *a: loss(reference, *a), argnums=(0, 1)), in_dims=(0, None, None)
    )(x, scale[0], zero_point[0])
    for a, e in zip(per_sample, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-10)


def test_jacobian_is_diagonal() -> None:
    x, scale = torch.tensor([-9.0, -0.3, 0.4, 9.0]), torch.tensor(0.5)
    jacobian = torch.func.jacrev(
        lambda x, scale: fake_quant(x, scale, None, *NUMBERS, FakeQuantPlan()), argnums=(0, 1)
    )(x, scale)
    assert torch.equal(jacobian[0], torch.diag(torch.tensor([0.0, 1.0, 1.0, 0.0])))
    through = torch.tensor([-8.0, -1.0 + 0.6, 1.0 - 0.8, 7.0])
    torch.testing.assert_close(jacobian[1], through)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_vmap_over_any_dimension(dim: int) -> None:
    x, scale = torch.randn(3, 4, 5), torch.rand(5) + 0.1
    apply = torch.func.vmap(
        lambda x, scale: fake_quant(x, scale, None, *NUMBERS, FakeQuantPlan()),
        in_dims=(dim, None if dim != -1 else 0),
        out_dims=dim,
    )
    expected = fake_quant(x, scale, None, *NUMBERS, FakeQuantPlan())
    assert torch.equal(apply(x, scale), expected)


def test_compiled_equals_eager_to_the_bit() -> None:
    def everything(x: Tensor, scale: Tensor, zero_point: Tensor) -> list[Tensor]:
        return [
            fake_quant(x, scale, shift, *NUMBERS, plan)
            for plan in PLANS
            for shift in (None, zero_point)
        ]

    compiled = torch.compile(everything, fullgraph=True, backend="aot_eager")
    scale, zero_point = torch.rand(3, 1) + 0.1, torch.full((3, 1), 2.0)
    results = []
    for function in (everything, compiled):
        leaves = [scale.clone().requires_grad_(), zero_point.clone().requires_grad_()]
        x = torch.linspace(-3.0, 3.0, 120).reshape(3, 40).requires_grad_()
        values = function(x, *leaves)
        torch.stack(values).sum().backward()
        results.append([*values, x.grad, leaves[0].grad, leaves[1].grad])
    for actual, expected in zip(results[1][:-2], results[0][:-2], strict=True):
        assert torch.equal(actual, expected)
    for actual, expected in zip(results[1][-2:], results[0][-2:], strict=True):
        torch.testing.assert_close(actual, expected)


# 2026-11: PyTorch's own code generator calls a function that PyTorch deprecated.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_compiled_by_inductor_equals_eager_to_the_bit() -> None:
    compiled = torch.compile(fake_quant, fullgraph=True)
    x, scale, zero_point = torch.randn(3, 40), torch.rand(3, 1) + 0.1, torch.full((3, 1), 2.0)
    arguments = (x, scale, zero_point, *NUMBERS, FakeQuantPlan())
    assert torch.equal(compiled(*arguments), fake_quant(*arguments))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("passes", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
def test_half_precision_gradients_are_rounded_once(
    dtype: torch.dtype, passes: bool, per_channel: bool
) -> None:
    """Gradients equal those of the same operands in 32 bits, rounded at the end."""
    operands = _operands(per_channel, True, True, dtype)
    wide = [operand.detach().float().requires_grad_() for operand in operands]
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(3, 40, generator=generator).to(dtype)
    plan = FakeQuantPlan(clamp_passes_gradient=passes)
    options = {"allow_unused": True}
    actual = torch.autograd.grad(fake_quant(*operands, plan), operands, weight, **options)
    expected = torch.autograd.grad(fake_quant(*wide, plan), wide, weight.float(), **options)
    for a, e in zip(actual, expected, strict=True):
        assert (a is None) is (e is None)
        assert a is None or (a.dtype is dtype and torch.equal(a, e.to(dtype)))


@pytest.mark.parametrize("passes", [False, True])
@pytest.mark.parametrize("scale_shape", [(), (4,), (3, 1)])
def test_a_zero_point_broader_than_its_input(passes: bool, scale_shape: tuple[int, ...]) -> None:
    plan = FakeQuantPlan(clamp_passes_gradient=passes)
    results = []
    for function in (fake_quant, reference):
        x = torch.tensor([-9.0, -0.3, 0.45, 9.0], dtype=torch.float64, requires_grad=True)
        scale = torch.full(scale_shape, 0.5, dtype=torch.float64, requires_grad=True)
        zero_point = torch.tensor([[-2.0], [0.0], [3.0]], dtype=torch.float64, requires_grad=True)
        y = function(x, scale, zero_point, *NUMBERS, plan)
        assert y.shape == (3, 4)
        y.pow(2).sum().backward()
        grads = [torch.zeros_like(t) if t.grad is None else t.grad for t in (x, scale, zero_point)]
        results.append([y, *grads])
    for actual, expected in zip(*results, strict=True):
        # Sums of 12 terms of order 10, in two orders of addition.
        torch.testing.assert_close(actual, expected, rtol=0, atol=12 * 10 * 2.3e-16)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grow by one each time that the operation enters autograd."""
    calls: list[int] = []
    original = fake_quant_module._FakeQuantFn.apply

    def counted(*arguments: object) -> Tensor:
        calls.append(1)
        return original(*arguments)

    monkeypatch.setattr(fake_quant_module._FakeQuantFn, "apply", counted)
    return calls


def test_nothing_is_recorded_where_no_gradient_is_asked_for(recorded: list[int]) -> None:
    operands = _operands(True, True, True)
    constants = [operand.detach() for operand in operands]
    expected = fake_quant(*operands, FakeQuantPlan())
    assert len(recorded) == 1 and expected.grad_fn is not None
    with torch.no_grad():
        values = [fake_quant(*operands, FakeQuantPlan())]
    with torch.inference_mode():
        values.append(fake_quant(*operands, FakeQuantPlan()).clone())
    values.append(fake_quant(*constants, FakeQuantPlan()))
    assert len(recorded) == 1
    assert all(y.grad_fn is None and torch.equal(y, expected) for y in values)


@pytest.mark.parametrize("index", range(5))
def test_one_operand_that_asks_is_enough(index: int, recorded: list[int]) -> None:
    operands = [operand.detach() for operand in _operands(True, True, True)]
    operands[index].requires_grad_()
    assert fake_quant(*operands, FakeQuantPlan()).requires_grad and len(recorded) == 1


def test_function_transforms_need_no_leaf() -> None:
    """Inside of a transform no tensor says that it requires a gradient."""
    x, scale = torch.tensor([-9.0, -0.3, 0.4, 9.0]), torch.tensor(0.5)

    def total(x: Tensor, scale: Tensor) -> Tensor:
        return fake_quant(x, scale, None, *NUMBERS, FakeQuantPlan()).sum()

    with torch.no_grad():
        each = torch.func.vmap(total, in_dims=(0, None))(x, scale)
        assert torch.equal(each.sum(), total(x, scale))
    grad_x, grad_scale = torch.func.grad(total, argnums=(0, 1))(x, scale)
    assert grad_x.tolist() == [0.0, 1.0, 1.0, 0.0]
    # Steps of -8, -1, 1 and 7, less x / scale where nothing is clamped.
    torch.testing.assert_close(grad_scale, torch.tensor(-8.0 - 1.0 + 0.6 + 1.0 - 0.8 + 7.0))


def test_integers_are_taken_as_real_values() -> None:
    x, scale = torch.arange(-20, 20), torch.tensor(1.5)
    y = fake_quant(x, scale, None, *NUMBERS, FakeQuantPlan())
    assert y.dtype is torch.float32
    assert torch.equal(y, fake_quant(x.float(), scale, None, *NUMBERS, FakeQuantPlan()))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_forward_mode_differentiation_is_refused_rather_than_zero():
    x, scale = torch.tensor([0.3]), torch.tensor(0.1)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones(1))
        with pytest.raises(RuntimeError, match="jvp"):
            fake_quant(dual, scale, None, *NUMBERS, FakeQuantPlan())


# Two grids ---------------------------------------------------------------------------------------


def two_grid_reference(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    lower: Tensor | float,
    upper: Tensor | float,
    output_scale: Tensor,
    output_zero_point: Tensor | None,
    plan: FakeQuantPlan,
) -> Tensor:
    """Integers of one grid, by the reference above at a step of one, placed on another."""
    shift = 0.0 if zero_point is None else zero_point
    one = torch.ones((), dtype=x.dtype)
    integer = reference(x / scale + shift, one, None, lower, upper, plan)
    return (integer - (0.0 if output_zero_point is None else output_zero_point)) * output_scale


def _two_grids(per_channel: bool, tensor_bounds: bool, shifted: bool) -> list[Tensor | float]:
    operands = list(_operands(per_channel, tensor_bounds, shifted))
    shape = (3, 1) if per_channel else ()
    grid: list[Tensor | None] = [torch.full(shape, 0.7, dtype=torch.float64), None]
    if shifted:
        grid[1] = torch.full(shape, -2.0, dtype=torch.float64)
    return operands + [g if g is None else g.requires_grad_() for g in grid]


def _on_two_grids(*operands: object) -> Tensor:
    *inputs, output_scale, output_zero_point, plan = operands
    return fake_quant(*inputs, plan, output_scale, output_zero_point)


@pytest.mark.parametrize("plan", PLANS, ids=lambda p: f"{p.rounding}-{p.clamp_passes_gradient}")
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("tensor_bounds", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
def test_values_and_gradients_on_two_grids(
    plan: FakeQuantPlan, per_channel: bool, tensor_bounds: bool, shifted: bool
) -> None:
    operands = _two_grids(per_channel, tensor_bounds, shifted)
    leaves = _leaves(tuple(operands))
    results = []
    for function in (_on_two_grids, two_grid_reference):
        value = function(*operands, plan)
        first = torch.autograd.grad((value**2).sum(), leaves, create_graph=True, allow_unused=True)
        first = [
            torch.zeros_like(p) if g is None else g for p, g in zip(leaves, first, strict=True)
        ]
        second = torch.autograd.grad(
            sum((g * (g.detach() + 1)).sum() for g in first), leaves, allow_unused=True
        )
        second = [
            torch.zeros_like(p) if g is None else g for p, g in zip(leaves, second, strict=True)
        ]
        results.append([value, *first, *second])
    for actual, expected in zip(*results, strict=True):
        # Sums of 120 terms, in two orders of addition.
        largest = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(actual, expected, rtol=0, atol=120 * largest * 16 * 2.3e-16)


@pytest.mark.parametrize("batched", [0, 1, 5, 6])
def test_vectorized_over_one_operand_of_two_grids(batched: int) -> None:
    operands = [o.detach() if isinstance(o, Tensor) else o for o in _two_grids(True, False, True)]
    in_dims: list[int | None] = [None] * len(operands)
    in_dims[batched] = 0
    stacked = list(operands)
    stacked[batched] = torch.stack([operands[batched], operands[batched] * 2])

    def function(*tensors: object) -> Tensor:
        return _on_two_grids(*tensors, FakeQuantPlan())

    actual = torch.func.vmap(function, in_dims=tuple(in_dims))(*stacked)
    for index, given in enumerate(stacked[batched]):
        single = [given if place == batched else o for place, o in enumerate(operands)]
        assert torch.equal(actual[index], function(*single))


@pytest.mark.parametrize("index", [5, 6])
def test_an_output_grid_that_asks_for_a_gradient_is_enough(index: int, recorded: list[int]) -> None:
    operands = [o.detach() if isinstance(o, Tensor) else o for o in _two_grids(True, True, True)]
    operands[index].requires_grad_()
    assert _on_two_grids(*operands, FakeQuantPlan()).requires_grad and len(recorded) == 1
