"""Merging puts the quantized weight in the place of the float one, and changes no output."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import brevitas.nn as qnn
import brevitas.quant as quantizers
from brevitas.nn.utils import merge_quant_weights

QUANTIZERS = [
    "Int8WeightPerTensorFloat",
    "Int8WeightPerChannelFloat",
    "Int8WeightPerTensorFixedPoint",
    "ShiftedUint8WeightPerChannelFloat",
    "SignedBinaryWeightPerTensorConst",
    "Int8WeightNormL2PerChannelFixedPoint",
]


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


class Attention(qnn.QuantMultiheadAttention):
    def forward(self, x):
        return super().forward(x, x, x)[0]


LAYERS = {
    "convolutions": lambda: nn.Sequential(
        qnn.QuantConv1d(2, 3, 2), nn.ReLU(), qnn.QuantConvTranspose1d(3, 2, 2)
    ),
    "attention": lambda: Attention(4, 2),
    "recurrent": lambda: nn.Sequential(qnn.QuantLSTM(4, 3)),
}


@pytest.mark.parametrize("name", QUANTIZERS)
def test_weight_is_the_quantized_weight(name):
    layer = qnn.QuantLinear(6, 5, weight_quant=getattr(quantizers, name))
    model, x = nn.Sequential(layer).eval(), random(4, 6)
    expected = model(x)
    quantized, keys = layer.quant_weight().value.detach(), list(model.state_dict())
    merge_quant_weights(model, x)
    assert torch.equal(layer.weight, quantized) and list(model.state_dict()) == keys
    # A scale read from the merged weight is the largest integer times the scale, over that integer:
    # two roundings.
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_all_layers(name):
    model, x = LAYERS[name]().eval(), random(3, 2, 4)
    run = model if name != "recurrent" else lambda x: model(x)[0]
    expected, before = run(x), {key: value.clone() for key, value in model.named_parameters()}
    merge_quant_weights(model, x)
    changed = [
        key for key, value in model.named_parameters() if not torch.equal(value, before[key])
    ]
    assert changed == [key for key in before if key.endswith("weight")]
    torch.testing.assert_close(run(x), expected, rtol=1e-5, atol=1e-5)


def test_parameters_stay_and_older_checkpoints_too():
    layer = qnn.QuantLinear(6, 5, weight_bit_width=3)
    parameter, saved = layer.weight, layer.state_dict()["weight"]
    before = saved.clone()
    merge_quant_weights(layer, random(2, 6))
    assert layer.weight is parameter and parameter.requires_grad
    assert torch.equal(saved, before) and not torch.equal(parameter, before)
    layer(random(2, 6)).sum().backward()
    assert parameter.grad is not None


def test_the_run_leaves_no_trace():
    model = nn.Sequential(
        qnn.QuantLinear(6, 5), nn.BatchNorm1d(5), nn.Dropout(), qnn.QuantReLU()
    ).train()
    model[2].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    merge_quant_weights(model, random(4, 6))
    del before["0.weight"]
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert [module.training for module in model] == [True, True, False, True]
    assert not any(module._forward_hooks for module in model.modules())


def test_float_weights_are_kept_on_demand():
    layer = qnn.QuantLinear(6, 5, weight_bit_width=3)
    before, keys = layer.weight.detach().clone(), list(layer.state_dict())
    merge_quant_weights(layer, random(2, 6), preserve_original_weights=True)
    assert torch.equal(layer.original_weight, before) and list(layer.state_dict()) == keys
    assert not torch.equal(layer.weight, before)


@pytest.mark.parametrize("example", [(random(2, 6),), [random(2, 6)], {"x": random(2, 6)}])
def test_only_layers_that_run(example):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = qnn.QuantLinear(6, 5), qnn.QuantLinear(6, 5)
            self.plain = qnn.QuantLinear(6, 5, weight_quant=None)

        def forward(self, x):
            return self.used(x) + self.plain(x)

    model = Model()
    before = {name: value.clone() for name, value in model.named_parameters()}
    merge_quant_weights(model, example)
    after = dict(model.named_parameters())
    assert [n for n in before if not torch.equal(before[n], after[n])] == ["used.weight"]


def test_kept_quantized_weights_are_dropped():
    layer = qnn.QuantLinear(6, 5, weight_bit_width=3).eval()
    layer.weight_quant.cache_inference_quant_weight = True
    merge_quant_weights(layer, random(2, 6))
    assert torch.equal(layer.quant_weight().value, layer.weight)
    assert layer.weight_quant._cached_weight.find(layer.weight) is not None


def test_weights_that_cannot_be_merged():
    first, second = qnn.QuantLinear(6, 6), qnn.QuantLinear(6, 6, weight_bit_width=3)
    second.weight = first.weight
    model, before = nn.Sequential(first, second), first.weight.detach().clone()
    with pytest.raises(RuntimeError, match=r"shared with a layer .* Layer: 1"):
        merge_quant_weights(model, random(2, 6))
    assert torch.equal(first.weight, before) and not first.weight_quant._forward_hooks
    nn.utils.parametrize.register_parametrization(first, "weight", nn.Tanh())
    with pytest.raises(RuntimeError, match=r"remove_parametrizations.*Layer: 0"):
        merge_quant_weights(model, random(2, 6))
