"""A linear map that quantizes its weight once more for the backward pass, or keeps it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import brevitas.nn as qnn
from brevitas.ops import requantized
from brevitas.quant import Int8WeightPerChannelFloat, Int8WeightPerTensorFloat

QUANTIZERS = [Int8WeightPerTensorFloat, Int8WeightPerChannelFloat]


@pytest.fixture
def least(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the number of elements from which a weight is quantized once more."""
    return lambda elements: monkeypatch.setattr(requantized, "_LEAST", elements)


def layer(quantizer: Any = Int8WeightPerTensorFloat, **keywords: Any) -> qnn.QuantLinear:
    torch.manual_seed(0)
    return qnn.QuantLinear(12, 7, weight_quant=quantizer, dtype=torch.float64, **keywords)


def step(model: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    y = model(x)
    y = y.value if not isinstance(y, Tensor) else y
    weight = torch.linspace(-1.0, 2.0, y.numel(), dtype=y.dtype).view(y.shape)
    leaves = [x, *model.parameters()]
    return y, list(torch.autograd.grad((y * weight).sum(), leaves, create_graph=False))


def assert_same(model: nn.Module, x: Tensor, least: Any) -> None:
    least(1 << 30)
    expected, gradients = step(model, x)
    least(1)
    actual, found = step(model, x)
    assert torch.equal(actual, expected)
    for ours, theirs in zip(found, gradients, strict=True):
        # Sums over rows and elements in another order.
        eps = x.numel() * model.weight.numel() * torch.finfo(x.dtype).eps
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=eps)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("shape", [(5, 12), (2, 3, 12)])
@pytest.mark.parametrize("bias", [True, False])
def test_same_as_linear(quantizer: Any, shape: tuple[int, ...], bias: bool, least: Any) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert_same(layer(quantizer, bias=bias), x, least)


def test_the_weight_is_not_kept(least: Any) -> None:
    model, x = layer(), torch.randn(5, 12, dtype=torch.float64, requires_grad=True)
    given = {t.untyped_storage().data_ptr() for t in (x, *model.parameters())}
    sizes = []
    for elements in (1 << 30, 1):
        least(elements)
        kept = {}

        def keep(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in given:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            y = model(x)
        sizes.append(sum(kept.values()))
        del y
    assert sizes[0] - sizes[1] == model.weight.numel() * 8


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_second_gradient(quantizer: Any, least: Any) -> None:
    model, found = layer(quantizer), []
    x = torch.randn(5, 12, dtype=torch.float64, requires_grad=True)
    for elements in (1 << 30, 1):
        least(elements)
        (first,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), model.weight)[0])
    torch.testing.assert_close(*found)


def test_two_uses_of_one_quantized_weight(least: Any) -> None:
    model, found = layer(), []
    x, z = (torch.randn(5, 12, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for elements in (1 << 30, 1):
        least(elements)
        weight = model.quant_weight().value
        total = requantized.linear(x, weight).sum() + requantized.linear(z, weight).square().sum()
        total = total + weight.square().sum()
        found.append(torch.autograd.grad(total, model.weight)[0])
    torch.testing.assert_close(*found)


def test_a_weight_changed_before_the_backward_pass_is_an_error(least: Any) -> None:
    least(1)
    model, x = layer(), torch.randn(5, 12, dtype=torch.float64, requires_grad=True)
    y = model(x)
    with torch.no_grad():
        model.weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_hook_sees_the_gradient_of_the_value(least: Any) -> None:
    least(1)
    model, x = layer(), torch.randn(5, 12, dtype=torch.float64, requires_grad=True)
    weight = model.quant_weight().value
    weight.retain_grad()
    y = requantized.linear(x, weight)
    y.sum().backward()
    torch.testing.assert_close(weight.grad, torch.ones_like(y).t() @ x.detach())


def test_checkpointing(least: Any) -> None:
    model, found = layer(), []
    x = torch.randn(5, 12, dtype=torch.float64, requires_grad=True)
    for elements in (1 << 30, 1):
        least(elements)
        y = torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False)
        found.append(torch.autograd.grad(y.square().sum(), model.weight)[0])
    torch.testing.assert_close(*found)


def test_a_compiler_sees_one_graph(least: Any) -> None:
    least(1)
    model, x = layer(), torch.randn(5, 12, dtype=torch.float64, requires_grad=True)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), model(x))


@pytest.mark.parametrize("change", ["no gradient of x", "autocast", "quant tensor"])
def test_elsewhere_it_is_linear(change: str, least: Any) -> None:
    least(1)
    model, x = layer().float(), torch.randn(5, 12, requires_grad=change != "no gradient of x")
    if change == "quant tensor":
        model = qnn.QuantLinear(12, 7, return_quant_tensor=True)
        identity = qnn.QuantIdentity(return_quant_tensor=True)
        assert model(identity(x)).is_valid
        return
    with torch.autocast("cpu", enabled=change == "autocast"):
        y = model(x)
    assert y.grad_fn is not None and "_LinearFn" not in type(y.grad_fn).__name__
