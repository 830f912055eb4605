"""Replacements last as long as a trace, whatever happens in it."""

from __future__ import annotations

import builtins
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import Graph, Proxy

import brevitas.common
import brevitas.fx._patches
import brevitas.quant_tensor
from brevitas.fx._patches import (
    FNS_TO_PATCH,
    apply_function,
    patch_isinstance,
    patched_constructors,
    patched_functions,
    tracer_of,
)
from brevitas.quant_tensor import IntQuantTensor, QuantTensor


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return 2 * grads[0]


def test_everything_is_put_back() -> None:
    before = [getattr(torch, function.__name__) for function in FNS_TO_PATCH]
    apply = vars(torch.autograd.Function)["apply"]
    with pytest.raises(KeyError), patched_functions():
        assert torch.zeros is not before[2]
        raise KeyError("planted")
    assert [getattr(torch, function.__name__) for function in FNS_TO_PATCH] == before
    assert vars(torch.autograd.Function)["apply"] is apply


def test_calls_without_stand_ins_are_run() -> None:
    with patched_functions():
        assert torch.equal(torch.zeros(2), torch.tensor([0.0, 0.0]))
        assert torch.equal(Double.apply(torch.ones(1)), torch.tensor([2.0]))
        assert torch.finfo(torch.float32).bits == 32


def test_calls_with_stand_ins_are_recorded() -> None:
    graph = Graph()
    proxy = Proxy(graph.placeholder("n"))
    assert tracer_of((1, [{"a": proxy}])) is proxy.tracer and tracer_of((1,)) is None
    with patched_functions():
        torch.zeros(proxy, 2)
        Double.apply(proxy)
    targets = [node.target for node in graph.nodes][1:]
    assert targets == [torch.zeros, apply_function]
    assert apply_function(f"{__name__}:Double", torch.ones(1)).item() == 2


def test_unknown_autograd_function() -> None:
    with pytest.raises(ValueError, match="nowhere:Missing: .* cannot be imported"):
        apply_function("nowhere:Missing", torch.ones(1))


def test_constructors_record_stand_ins_only() -> None:
    proxy = Proxy(Graph().placeholder("x"))
    fields = (0.5, 0.0, 8, True, False)
    original = vars(IntQuantTensor)["__new__"]
    with patched_constructors(QuantTensor):
        assert type(IntQuantTensor(torch.ones(1), *fields)) is IntQuantTensor
        for kind in (IntQuantTensor, QuantTensor):
            built: Any = kind(proxy, *fields)
            assert type(built) is Proxy and built.node.target is IntQuantTensor
    assert vars(IntQuantTensor)["__new__"] is original


def test_isinstance_of_one_namespace() -> None:
    own: dict[str, Any] = {"__name__": "no_such_package.model"}
    torch_like: dict[str, Any] = {"__name__": "torch.nn.modules"}
    with ExitStack() as stack:
        for namespace in (own, torch_like, own):
            patch_isinstance(stack, namespace, "replacement")
        assert own["isinstance"] == "replacement" and "isinstance" not in torch_like
    assert "isinstance" not in own and isinstance is builtins.isinstance


def test_isinstance_of_a_package() -> None:
    with ExitStack() as stack:
        patch_isinstance(stack, vars(brevitas.common), isinstance)
        assert vars(brevitas.quant_tensor)["isinstance"] is isinstance
        assert "isinstance" not in vars(brevitas.fx._patches)
    assert "isinstance" not in vars(brevitas.common) | vars(brevitas.quant_tensor)
