"""The straight-through functions: values, gradients, transforms of PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from brevitas.ops import autograd_ste_ops as ops

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "round_ste_impl": torch.round,
    "ceil_ste_impl": torch.ceil,
    "floor_ste_impl": torch.floor,
    "round_to_zero_ste_impl": torch.trunc,
    "binary_sign_ste_impl": lambda x: torch.where(x >= 0, 1.0, -1.0),
    "ternary_sign_ste_impl": torch.sign,
    "dpu_round_ste_impl": lambda x: torch.where(
        (x < 0) & (x - x.floor() == 0.5), x.ceil(), x.round()
    ),
}
VALUES = torch.arange(-16, 17) / 4.0


@pytest.mark.parametrize("name", UNARY)
def test_unary_value_and_identity_gradient(name: str) -> None:
    x = VALUES.clone().requires_grad_()
    y = getattr(ops, name)(x)
    assert torch.equal(y, UNARY[name](VALUES))
    weights = torch.randn_like(VALUES)
    (gradient,) = torch.autograd.grad(y, x, weights)
    assert torch.equal(gradient, weights)


@pytest.mark.parametrize("name", UNARY)
def test_unary_under_func_transforms(name: str) -> None:
    impl = getattr(ops, name)
    assert torch.equal(torch.func.vmap(impl)(VALUES.view(3, 11)), impl(VALUES).view(3, 11))
    gradient = torch.func.grad(lambda x: impl(x).sum())(VALUES)
    assert torch.equal(gradient, torch.ones_like(VALUES))
    jacobian = torch.func.jacrev(impl)(VALUES)
    assert torch.equal(jacobian, torch.eye(VALUES.numel()))


CLAMPS: dict[str, Callable[[Tensor], Tensor]] = {
    "scalar": lambda x: ops.scalar_clamp_ste_impl(x, -1.0, 2.0),
    "tensor": lambda x: ops.tensor_clamp_ste_impl(x, torch.tensor(-1.0), torch.tensor(2.0)),
    "inplace": lambda x: ops.tensor_clamp_ste_impl_(x * 1, torch.tensor(-1.0), torch.tensor(2.0)),
}


@pytest.mark.parametrize("kind", CLAMPS)
def test_clamps_pass_the_gradient_outside_of_the_range(kind: str) -> None:
    x = VALUES.clone().requires_grad_()
    y = CLAMPS[kind](x)
    assert torch.equal(y, VALUES.clamp(-1.0, 2.0))
    y.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(VALUES))


def test_clamp_gives_its_bounds_no_gradient() -> None:
    low, high = torch.tensor(-1.0, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    ops.tensor_clamp_ste_impl(VALUES.clone().requires_grad_(), low, high).sum().backward()
    assert low.grad is None and high.grad is None


def test_clamp_in_place_overwrites_its_argument() -> None:
    x = VALUES.clone()
    assert ops.tensor_clamp_ste_impl_(x, torch.tensor(-1.0), torch.tensor(1.0)) is x
    assert torch.equal(x, VALUES.clamp(-1.0, 1.0))


def test_clamp_min() -> None:
    x = VALUES.clone().requires_grad_()
    y = ops.scalar_clamp_min_ste_impl(x, 0.5)
    y.sum().backward()
    assert torch.equal(y, VALUES.clamp_min(0.5))
    assert torch.equal(x.grad, torch.ones_like(VALUES))


def test_signed_clamp_min_keeps_the_sign_of_all_but_zero() -> None:
    x = VALUES.clone().requires_grad_()
    y = ops.scalar_signed_clamp_min_ste_impl(x, 0.6)
    y.sum().backward()
    sign = torch.where(VALUES >= 0, 1.0, -1.0)
    assert torch.equal(y, sign * VALUES.abs().clamp_min(0.6))
    assert torch.equal(x.grad, torch.ones_like(VALUES))


def test_absolute_value_has_gradient_one_at_zero() -> None:
    x = torch.tensor([-2.0, -0.0, 0.0, 3.0], requires_grad=True)
    y = ops.abs_binary_sign_grad_impl(x)
    y.sum().backward()
    assert y.tolist() == [2.0, 0.0, 0.0, 3.0]
    assert x.grad.tolist() == [-1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", [*UNARY, "abs_binary_sign_grad_impl"])
def test_second_derivative(name: str) -> None:
    """With `y = f(x)` and `y' = s`, the gradient of `y ** 2` is `2 y s`, and its derivative 2."""
    x = VALUES.clone().requires_grad_()
    y = getattr(ops, name)(x)
    (first,) = torch.autograd.grad((y**2).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert torch.equal(second, torch.full_like(VALUES, 2.0))


def test_nan_stays_and_infinity_clamps() -> None:
    x = torch.tensor([float("nan"), float("inf"), -float("inf")])
    y = ops.scalar_clamp_ste_impl(x, -1.0, 1.0)
    assert y[0].isnan() and y[1:].tolist() == [1.0, -1.0]
    assert ops.round_ste_impl(x)[0].isnan()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types_are_kept(dtype: torch.dtype) -> None:
    x = VALUES.to(dtype)
    for name in UNARY:
        assert getattr(ops, name)(x).dtype == dtype
