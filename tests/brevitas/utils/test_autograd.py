"""Autograd functions that are called without binding a signature."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import Function
from torch.fx.experimental.proxy_tensor import make_fx

from brevitas.utils.autograd import DirectFunction


class RoundTimes(DirectFunction):
    """Rounds and multiplies; the gradient of the rounding is one."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, factor: float) -> Tensor:
        return torch.round(x) * factor

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore
        return grad * ctx.factor, None


def doubled(x: Tensor) -> Tensor:
    return RoundTimes.apply(x, 2.0)


X = torch.tensor([0.4, 1.6, -2.7])
EXPECTED = torch.tensor([0.0, 4.0, -6.0])


def test_value_and_gradient() -> None:
    x = X.clone().requires_grad_()
    y = doubled(x)
    assert torch.equal(y, EXPECTED)
    y.sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 2.0))
    assert not doubled(X).requires_grad


def test_transforms() -> None:
    gradient = torch.func.grad(lambda x: doubled(x).sum())
    assert torch.equal(gradient(X), torch.full_like(X, 2.0))
    batch = torch.stack([X, X + 1])
    assert torch.equal(torch.func.vmap(doubled)(batch), doubled(batch))
    assert torch.equal(torch.func.vmap(gradient)(batch), torch.full_like(batch, 2.0))


@pytest.mark.parametrize("strict", [True, False])
def test_tracers_see_its_operations(strict: bool) -> None:
    class Model(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return doubled(x)

    exported = torch.export.export(Model(), (X,), strict=strict)
    assert torch.equal(exported.module()(X), EXPECTED)
    assert torch.equal(make_fx(doubled)(X)(X), EXPECTED)


def test_compiles_to_one_graph() -> None:
    compiled = torch.compile(doubled, fullgraph=True, backend="aot_eager")
    x = X.clone().requires_grad_()
    compiled(x).sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 2.0))
    torch._dynamo.reset()


def test_who_replaces_the_apply_of_pytorch_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = Function.apply.__func__

    def apply(cls: type, *args: Any) -> Any:
        seen.append(cls)
        return original(cls, *args)

    monkeypatch.setattr(Function, "apply", classmethod(apply))
    assert torch.equal(doubled(X), EXPECTED) and seen == [RoundTimes]
