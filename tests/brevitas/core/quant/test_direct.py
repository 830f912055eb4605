"""Quantizers that run without a call of their parts, against the parts."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import brevitas.nn as qnn
from brevitas.core.quant import _direct
from brevitas.core.scaling import ParameterFromRuntimeStatsScaling
from brevitas.quant import Int8ActPerTensorFloat, Uint8ActPerTensorFloat


def relu(phase: str, **keywords: Any) -> qnn.QuantReLU:
    layer = qnn.QuantReLU(collect_stats_steps=1, bit_width=3, **keywords)
    if phase != "collecting":
        layer(torch.linspace(-2.0, 4.0, 50))
    return layer.train(phase != "evaluation")


def by_parts(layer: qnn.QuantReLU) -> qnn.QuantReLU:
    """The same layer, whose activation function runs on its own."""
    other = copy.deepcopy(layer)
    fused: Any = other.act_quant.fused_activation_quant_proxy
    fused.activation_impl.register_forward_hook(lambda *arguments: None)
    return other


@pytest.fixture
def rectified(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Grow at each quantization: whether the activation function was part of it."""
    found: list[bool] = []

    def seen(x: Tensor, *others: Any) -> Tensor:
        found.append(others[4].rectifies)
        return original(x, *others)

    original = _direct.fake_quant
    monkeypatch.setattr(_direct, "fake_quant", seen)
    return found


@pytest.mark.parametrize("phase", ["collecting", "learned", "evaluation"])
@pytest.mark.parametrize("narrow", [False, True])
def test_a_rectified_linear_unit_is_part_of_its_quantizer(
    phase: str, narrow: bool, rectified: list[bool]
) -> None:
    layer = relu(phase, narrow_range=narrow)
    other, x = by_parts(layer), torch.randn(100)
    x[:3] = torch.tensor([0.0, -0.0, -1e-3])
    if phase != "collecting":
        x[3] = float("inf")
    results = []
    rectified.clear()
    for each in (layer, other):
        leaf = x.clone().requires_grad_()
        y = each(leaf)
        (y * torch.linspace(-1.0, 2.0, 100)).sum().backward()
        results.append((y, leaf.grad, [p.grad for p in each.parameters()]))
    assert rectified == [phase != "collecting", False]
    (y, grad, others), (expected, expected_grad, expected_others) = results
    assert torch.equal(y, expected) and torch.equal(grad, expected_grad)
    for ours, theirs in zip(others, expected_others, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("quantizer", [Int8ActPerTensorFloat, Uint8ActPerTensorFloat])
def test_where_the_range_starts_below_zero_it_is_not(quantizer: Any, rectified: list[bool]) -> None:
    layer = relu("learned", act_quant=quantizer)
    rectified.clear()
    layer(torch.randn(20))
    assert rectified == [quantizer is Uint8ActPerTensorFloat]


def test_a_recomputed_batch_of_the_statistics_is_recognised() -> None:
    x = torch.randn(100)
    layer, plain = relu("collecting"), relu("collecting")
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    recomputed = torch.utils.checkpoint.checkpoint(layer, leaves[0], use_reentrant=False)
    kept = plain(leaves[1])
    assert torch.equal(recomputed, kept)
    recomputed.square().sum().backward()
    kept.square().sum().backward()
    assert torch.equal(leaves[0].grad, leaves[1].grad)
    scaling: Any = layer.act_quant.fused_activation_quant_proxy.tensor_quant.scaling_impl
    assert isinstance(scaling, ParameterFromRuntimeStatsScaling) and not scaling.collecting


def test_operations_of_a_weight() -> None:
    layer, called = qnn.QuantLinear(6, 4), []

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            called.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    layer.quant_weight()
    with Watching(), torch.no_grad():
        layer.quant_weight()
    magnitude, value = ["abs", "amax", "clamp_min", "div"], ["div", "round_", "clamp_", "mul_"]
    assert [name for name in called if name not in ("view", "detach")] == [*magnitude, *value]
