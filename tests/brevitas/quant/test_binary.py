"""Binary weights and activations in layers."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import brevitas.nn as qnn
from brevitas.core.scaling import ConstScaling
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int32Bias,
    SignedBinaryActPerTensorConst,
    SignedBinaryWeightPerTensorConst,
    Uint8ActPerTensorFloat,
)
from brevitas.quant_tensor import IntQuantTensor


def linear(**keywords: object) -> qnn.QuantLinear:
    torch.manual_seed(0)
    quantizer = SignedBinaryWeightPerTensorConst
    return qnn.QuantLinear(2, 4, bias=False, weight_quant=quantizer, **keywords)


def test_default_weight() -> None:
    weight = linear().quant_weight()
    signs = [[-1, 1], [-1, -1], [-1, 1], [-1, 1]]
    assert torch.equal(weight.value, torch.tensor(signs) * torch.tensor([0.1]))
    assert weight.scale.tolist() == pytest.approx([0.1]) and weight.zero_point == 0
    assert weight.bit_width == 1 and weight.signed and weight.is_valid
    assert weight.int().dtype is torch.int8 and weight.int().tolist() == signs


def test_reading_the_weight_leaves_it_alone() -> None:
    layer = linear()
    before = layer.weight.detach().clone()
    layer.quant_weight()
    layer(torch.ones(1, 2)).sum().backward()
    assert torch.equal(layer.weight, before)
    assert before.abs().max() > 0.1  # beyond the range, where a clamp in place would show


def test_every_weight_learns() -> None:
    layer, x = linear(), torch.randn(5, 2)
    layer(x).sum().backward()
    scale = layer.quant_weight().scale
    torch.testing.assert_close(layer.weight.grad, (scale * x.sum(0)).expand(4, 2))


def test_the_scale_of_a_weight_is_chosen() -> None:
    layer = linear(weight_scaling_const=2.0)
    assert layer.quant_weight().value.abs().unique().tolist() == [2.0]
    assert layer.weight_quant.scale().tolist() == [2.0]


def test_the_scale_of_an_activation_is_chosen() -> None:
    x = torch.tensor([-3.0, 0.0, 0.5])
    for keywords, scale in (
        ({}, 1.0),
        ({"scaling_const": 0.25}, 0.25),
        ({"max_val": 3.0, "min_val": -3.0}, 3.0),
    ):
        layer = qnn.QuantIdentity(SignedBinaryActPerTensorConst, return_quant_tensor=True)
        if keywords:
            quantizer = SignedBinaryActPerTensorConst.let(**keywords)
            layer = qnn.QuantIdentity(quantizer, return_quant_tensor=True)
        y = layer(x)
        assert y.value.tolist() == [-scale, scale, scale] and y.int().tolist() == [-1, 1, 1]
        assert layer.act_quant.scale().tolist() == [scale]
        assert layer.act_quant.bit_width() == 1


def test_an_activation_learns_within_its_range() -> None:
    x = torch.tensor([-3.0, -0.5, 0.5, 3.0], requires_grad=True)
    qnn.QuantIdentity(SignedBinaryActPerTensorConst)(x).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 0.0]


def test_what_the_proxies_say() -> None:
    for proxy in (linear().weight_quant, qnn.QuantReLU(SignedBinaryActPerTensorConst).act_quant):
        assert proxy.is_signed is proxy.is_narrow_range is True
        assert proxy.rounding_mode == "ROUND" and proxy.has_zero_point is False
        assert proxy.input_view_impl(proxy) is proxy


def test_two_layers_share_a_quantizer() -> None:
    first = linear()
    second = qnn.QuantLinear(3, 5, weight_quant=first.weight_quant)
    assert second.weight_quant is first.weight_quant
    first.weight_quant.tensor_quant.scaling_impl = ConstScaling(0.7)
    for layer in (first, second):
        weight = layer.quant_weight()
        assert torch.equal(weight.value, torch.where(layer.weight >= 0, 0.7, -0.7))
        assert weight.scale.tolist() == pytest.approx([0.7])
    both = copy.deepcopy(nn.ModuleList([first, second]))
    assert both[0].weight_quant is both[1].weight_quant is not first.weight_quant
    assert both[0].weight_quant.tracked_module_list == list(both)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        qnn.QuantIdentity(SignedBinaryActPerTensorConst, return_quant_tensor=True),
        qnn.QuantLinear(
            6,
            5,
            weight_quant=SignedBinaryWeightPerTensorConst,
            bias_quant=Int32Bias,
            return_quant_tensor=True,
        ),
        qnn.QuantIdentity(SignedBinaryActPerTensorConst),
        qnn.QuantLinear(5, 3, weight_quant=SignedBinaryWeightPerTensorConst),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_network_of_any_precision(dtype: torch.dtype) -> None:
    model, x = network().to(dtype), torch.randn(4, 6).to(dtype)
    hidden = model[1](model[0](x))
    assert hidden.is_valid and hidden.value.dtype is dtype
    # Of n products of -1 and 1, all odd or all even as n is, and an integer bias.
    assert torch.equal(hidden.int(float_datatype=True), (hidden.value / hidden.scale).round())
    model(x).float().square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


def test_copies_compute_the_same() -> None:
    model, x = network(), torch.randn(4, 6)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(model(x), other(x))


def test_one_graph_of_equal_values() -> None:
    model, x = network(), torch.randn(4, 6)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    results = []
    for run in (model, compiled):
        model.zero_grad()
        output = run(x)
        output.square().sum().backward()
        results.append([output.detach(), *(p.grad.clone() for p in model.parameters())])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)
    torch._dynamo.reset()


@pytest.mark.parametrize("act_quant", [Int8ActPerTensorFloat, Uint8ActPerTensorFloat])
def test_the_worst_case_fits_the_accumulator(act_quant: type) -> None:
    for channels in (1, 2, 3, 8):
        layer = qnn.QuantLinear(
            channels, 2, False, weight_quant=SignedBinaryWeightPerTensorConst, input_quant=act_quant
        )
        layer.return_quant_tensor = True
        with torch.no_grad():
            layer.weight[0], layer.weight[1] = 1.0, -1.0
        layer(torch.linspace(-1, 1, 8 * channels).reshape(8, channels))
        for extreme in (-1e6, 1e6):
            y = layer.eval()(torch.full((1, channels), extreme))
            assert type(y) is IntQuantTensor and y.is_valid
            step = layer.input_quant.bit_width()
            assert y.bit_width == layer.max_acc_bit_width(step, layer.weight_quant.bit_width())
