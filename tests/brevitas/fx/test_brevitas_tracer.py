"""Graphs of quantized models: each quantized layer one node, the rest gone through."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.fx
from torch import Tensor, nn
from torch.fx.proxy import TraceError
from torch.utils._pytree import tree_leaves

import brevitas.fx as brevitas_fx
import brevitas.nn as qnn
from brevitas.fx import (
    brevitas_symbolic_trace,
    brevitas_value_trace,
    symbolic_trace,
    value_trace,
)
from brevitas.fx.brevitas_tracer import BrevitasSymbolicTracer, BrevitasValueTracer
from brevitas.ops.fake_quant import fake_quant
from brevitas.ops.minifloat import minifloat_quant
from brevitas.ops.sign_quant import sign_quant
from brevitas.quant import Fp8e4m3OCPWeightPerTensorFloat, SignedBinaryWeightPerTensorConst
from brevitas.quant_tensor import IntQuantTensor, QuantTensor


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = qnn.QuantConv2d(4, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.join = qnn.QuantIdentity(return_quant_tensor=True)
        self.act = qnn.QuantReLU(return_quant_tensor=True)

    def forward(self, x: Any) -> Any:
        y = self.join(self.norm(self.conv(x)))
        y += self.join(x)
        return self.act(y)


class ResidualNet(nn.Module):
    """Quantized and float layers, shared quantizers, QuantTensors between them and at the end."""

    asks = False

    def __init__(self) -> None:
        super().__init__()
        self.input = qnn.QuantIdentity(return_quant_tensor=True)
        self.stem = qnn.QuantConv2d(3, 4, 3)
        self.act = qnn.QuantReLU(return_quant_tensor=True)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = qnn.QuantLinear(4, 2, bias=True)

    def forward(self, x: Tensor) -> Any:
        quantized = self.blocks(self.act(self.stem(self.input(x))))
        if self.asks:
            assert isinstance(quantized, QuantTensor) and isinstance(quantized.value, Tensor)
            value, scale, *_ = quantized
            pooled = (value / scale).mean((2, 3)) * quantized.scale
        else:
            pooled = quantized.value.mean((2, 3))
        return self.head(pooled), quantized


class AskingNet(ResidualNet):
    asks = True


LAYERS = ["input", "stem", "act", "head"] + [
    f"blocks.{i}.{name}" for i in range(2) for name in ("conv", "norm", "join", "act")
]


def build(kind: type[nn.Module], training: bool) -> nn.Module:
    torch.manual_seed(0)
    model = kind()
    with torch.no_grad():
        model(torch.randn(2, 3, 6, 6))
    return model.train(training)


def assert_equal_steps(model: nn.Module, traced: nn.Module) -> None:
    """Compare outputs, gradients and state; the two share no state."""
    for batch in (1, 3):
        results = []
        x = torch.randn(batch, 3, 6, 6)
        for module in (model, traced):
            data = x.clone().requires_grad_()
            outputs, quantized = module(data)
            assert type(quantized) is IntQuantTensor
            parameters = dict(module.named_parameters())
            loss = outputs.square().sum() + quantized.value.sum()
            gradients = torch.autograd.grad(loss, [data, *parameters.values()], allow_unused=True)
            results.append((tree_leaves((outputs, quantized)), gradients[0],
                            dict(zip(parameters, gradients[1:], strict=True))))  # fmt: skip
        torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)
    torch.testing.assert_close(
        dict(traced.state_dict()), dict(model.state_dict()), rtol=0, atol=0)  # fmt: skip


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", [ResidualNet, AskingNet])
def test_value_trace_of_a_quantized_residual_network(kind: type, training: bool) -> None:
    model = build(kind, training)
    traced = brevitas_value_trace(
        copy.deepcopy(model), value_args={"x": torch.zeros(2, 3, 6, 6)})  # fmt: skip
    if training:  # tracing was one call of the model
        model(torch.zeros(2, 3, 6, 6))
    assert {n.target for n in traced.graph.nodes if n.op == "call_module"} == set(LAYERS)
    assert "<built-in function iadd>" not in {str(n.target) for n in traced.graph.nodes}
    assert_equal_steps(model, traced)


def test_symbolic_trace_of_a_quantized_residual_network() -> None:
    model = build(ResidualNet, training=True)
    traced = brevitas_symbolic_trace(copy.deepcopy(model))
    assert {n.target for n in traced.graph.nodes if n.op == "call_module"} == set(LAYERS)
    assert_equal_steps(model, traced)


def test_a_traced_network_can_be_traced_again_and_pickled() -> None:
    model = build(AskingNet, training=False)
    x = torch.randn(2, 3, 6, 6)
    traced = brevitas_value_trace(model, value_args=(x,))
    again = brevitas_value_trace(traced, value_args=(x,))
    symbolic = brevitas_symbolic_trace(traced)
    unpickled = pickle.loads(pickle.dumps(traced))
    for other in (traced, again, symbolic, unpickled):
        torch.testing.assert_close(
            tree_leaves(other(2 * x)), tree_leaves(model(2 * x)), rtol=0, atol=0)  # fmt: skip


QUANTIZERS = [
    (fake_quant, {}),
    (minifloat_quant, {"weight_quant": Fp8e4m3OCPWeightPerTensorFloat}),
    (sign_quant, {"weight_quant": SignedBinaryWeightPerTensorConst, "weight_scaling_const": 0.7}),
]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("operation", "keywords"), QUANTIZERS)
def test_value_trace_goes_through_quantized_layers(
    operation: Any, keywords: dict[str, Any], training: bool
) -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = qnn.QuantLinear(3, 2, bias=True, **keywords)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    model = Small().train(training)
    traced = value_trace(model, value_args=(torch.ones(1, 3),))
    assert not any(node.op == "call_module" for node in traced.graph.nodes)
    assert operation in {node.target for node in traced.graph.nodes}
    x = torch.randn(2, 3)
    torch.testing.assert_close(traced(x), model(x), rtol=0, atol=0)
    # The straight-through gradients of the quantizer survive.
    weight = model.layer.weight
    gradients = [torch.autograd.grad(m(x).square().sum(), weight)[0] for m in (model, traced)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=0)
    assert gradients[0].abs().sum() > 0


@pytest.mark.parametrize("tracer", [BrevitasSymbolicTracer(), BrevitasValueTracer()])
def test_leaves(tracer: Any) -> None:
    layer = qnn.QuantLinear(3, 3, bias=False)

    class OwnLayer(qnn.QuantLinear):
        pass

    class Plain(nn.Module):
        pass

    own = OwnLayer(2, 2, bias=False)
    leaves = [layer, layer.weight_quant, qnn.QuantReLU(), nn.Linear(1, 1), own]
    assert all(tracer.is_leaf_module(module, "name") for module in leaves)
    assert not any(tracer.is_leaf_module(m, "name") for m in (Plain(), nn.Sequential()))


@pytest.mark.parametrize("trace", [symbolic_trace, brevitas_symbolic_trace])
def test_symbolic_trace_names_layer_line_and_remedy(trace: Callable[..., Any]) -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.sum() > 0:
                return x
            return -x

    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = Branching()

        def forward(self, x: Tensor) -> Tensor:
            return self.gate(x)

    with pytest.raises(TraceError) as caught:
        trace(Root())
    text = str(caught.value)
    assert "control flow" in text and "Layer: gate (Branching) of Root" in text
    assert "if x.sum() > 0:" in text and "value_trace(model" in text


def test_symbolic_trace_of_functions_that_make_tensors() -> None:
    def forward(x: Tensor, scale: float = 2.0) -> Tensor:
        return x.relu() * scale + torch.zeros(x.shape) + torch.arange(x.size(0))[:, None]

    traced = symbolic_trace(forward)
    for rows in (2, 3):
        x = torch.randn(rows, 2)
        assert torch.equal(traced(x), forward(x))


def test_concrete_args_of_symbolic_trace() -> None:
    def forward(x: Tensor, flag: bool) -> Tensor:
        return x if flag else -x

    traced = symbolic_trace(forward, concrete_args={"flag": False})
    assert torch.equal(traced(torch.ones(1), False), -torch.ones(1))


def test_state_stays_out_of_the_state_dict_and_the_model_clean() -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kept", torch.ones(1))
            self.register_buffer("dropped", torch.ones(1), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.kept + self.dropped + torch.ones(1).mul(3)

    for trace in (lambda m: symbolic_trace(m), lambda m: value_trace(m, None, (torch.ones(1),))):
        model = Root()
        attributes = set(vars(model))
        traced = trace(model)
        assert set(traced.state_dict()) == {"kept"}
        assert set(vars(model)) == attributes
        assert torch.equal(traced(torch.ones(1)), torch.tensor([5.0]))


def test_names_of_torch_fx() -> None:
    for name in ("Graph", "GraphModule", "Node", "Proxy", "Tracer", "PH"):
        assert getattr(brevitas_fx, name) is getattr(torch.fx, name)
    assert brevitas_fx.HAS_VARSTUFF == 12 and "add" in brevitas_fx.magic_methods


def test_a_traced_network_can_be_exported() -> None:
    model = build(ResidualNet, training=False)
    x = torch.randn(2, 3, 6, 6)
    traced = brevitas_value_trace(model, value_args=(x,))
    exported = torch.export.export(traced, (x,)).module()
    torch.testing.assert_close(exported(x)[0], model(x)[0])
