"""What quantized layers share: operands, tying, merging, errors about what is not quantized."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

import brevitas.nn as qnn
from brevitas.common import LayerProtocol, QuantLayerConfigurationError
from brevitas.inject.enum import ScalingImplType
from brevitas.nn.quant_layer import (
    QuantInputOutputLayer,
    QuantNonLinearActLayer,
    QuantWeightBiasInputOutputLayer,
)
from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerTensorFloat, Int16Bias

LearnedWeight = Int8WeightPerTensorFloat.let(scaling_impl_type=ScalingImplType.PARAMETER_FROM_STATS)


class Twice(nn.Module):
    def forward(self, weight):
        return 2 * weight


def linear(**keywords):
    torch.manual_seed(0)
    return qnn.QuantLinear(4, 6, **keywords)


NEW_WEIGHT = torch.randn(6, 4, generator=torch.Generator().manual_seed(7)) * 5


def _replace(layer, how):
    if how == "parameter":
        layer.weight = nn.Parameter(NEW_WEIGHT.clone())
    elif how == "register_parameter":
        layer.register_parameter("weight", nn.Parameter(NEW_WEIGHT.clone()))
    elif how == "data":
        layer.weight.data = NEW_WEIGHT.clone()
    elif how == "in place":
        with torch.no_grad():
            layer.weight.copy_(NEW_WEIGHT)
    elif how == "load":
        layer.load_state_dict({**layer.state_dict(), "weight": NEW_WEIGHT})
    elif how == "assign":
        layer.load_state_dict({**layer.state_dict(), "weight": NEW_WEIGHT.clone()}, assign=True)
    elif how == "tied":
        other = nn.Linear(4, 6)
        other.weight.data = NEW_WEIGHT.clone()
        layer.weight = other.weight
    elif how == "deleted":
        del layer.weight
        layer.weight = nn.Parameter(NEW_WEIGHT.clone())
    elif how == "parametrized":
        layer.weight.data = NEW_WEIGHT / 2
        parametrize.register_parametrization(layer, "weight", Twice())


WAYS = [
    "parameter",
    "register_parameter",
    "data",
    "in place",
    "load",
    "assign",
    "tied",
    "deleted",
    "parametrized",
]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("per_channel", [True, False])
def test_scale_follows_the_weight(how, per_channel):
    layer = linear(weight_scaling_per_output_channel=per_channel)
    layer.quant_weight()
    _replace(layer, how)
    largest = NEW_WEIGHT.abs().amax(1, keepdim=True) if per_channel else NEW_WEIGHT.abs().max()
    torch.testing.assert_close(layer.quant_weight().scale.detach(), largest / 127)
    layer(torch.randn(2, 4)).sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("place", [0, 1])
def test_shared_scale_follows_both_weights(how, place):
    first = linear()
    second = linear(weight_quant=first.weight_quant)
    first.quant_weight()
    _replace((first, second)[place], how)
    expected = NEW_WEIGHT.abs().max() / 127
    for layer in (first, second):
        torch.testing.assert_close(layer.quant_weight().scale.detach(), expected)


@pytest.mark.parametrize("how", ["parameter", "register_parameter", "tied", "deleted"])
def test_learned_scale_starts_anew_with_a_new_weight(how):
    layer = linear(weight_quant=LearnedWeight)
    layer.quant_weight()
    learned = layer.weight_quant.tensor_quant.scaling_impl.value
    _replace(layer, how)
    torch.testing.assert_close(layer.quant_weight().scale.detach(), NEW_WEIGHT.abs().max() / 127)
    assert layer.weight_quant.tensor_quant.scaling_impl.value is learned


def test_learned_scale_stays_with_a_written_weight():
    layer = linear(weight_quant=LearnedWeight)
    before = layer.quant_weight().scale.detach()
    with torch.no_grad():
        layer.weight.mul_(3.0)
    assert torch.equal(layer.quant_weight().scale.detach(), before)


def test_optimizer_keeps_training_learned_scales():
    """Loading and re-initialising write in place: an optimizer does not lose its parameters."""
    layer = linear(weight_quant=LearnedWeight, input_quant=Int8ActPerTensorFloat)
    x = torch.randn(3, 4)
    layer(x)
    parameters = dict(layer.named_parameters())
    other = linear(weight_quant=LearnedWeight, input_quant=Int8ActPerTensorFloat)
    other(2 * x)
    layer.load_state_dict(other.state_dict())
    layer.weight_quant.init_tensor_quant()
    layer(x).square().sum().backward()
    assert all(p is parameters[key] for key, p in layer.named_parameters())
    scale = parameters["weight_quant.tensor_quant.scaling_impl.value"]
    assert scale.grad is not None and bool(scale.grad.abs() > 0)


def test_tied_input_and_output():
    layer = linear(input_quant=Int8ActPerTensorFloat, tie_input_output_quant=True)
    assert layer.output_quant is layer.input_quant
    x = torch.randn(3, 4)
    layer(x)
    scale = layer.eval().input_quant.scale().detach()
    exact = F.linear(layer.input_quant(x).value, layer.quant_weight().value, layer.bias)
    expected = (exact / scale).round().clamp(-128, 127) * scale
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(
    ("build", "bn"),
    [
        (lambda: qnn.QuantLinear(4, 6), nn.BatchNorm1d(6)),
        (lambda: qnn.QuantLinear(4, 6, bias=False), nn.BatchNorm1d(6)),
        (lambda: qnn.QuantConv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)),
        (lambda: qnn.QuantConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6)),
        (lambda: qnn.QuantConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)),
    ],
)
def test_merge_of_a_batch_normalization(build, bn):
    torch.manual_seed(0)
    layer = build().eval()
    layer.weight_quant.disable_quant = True
    with torch.no_grad():
        bn.eval()
        bn.running_mean.normal_()
        bn.running_var.uniform_(0.5, 2.0)
        bn.weight.normal_()
        bn.bias.normal_()
    x = torch.randn(2, 4) if isinstance(layer, nn.Linear) else torch.randn(2, 4, 5, 5)
    expected = bn(layer(x))
    layer.merge_bn_in(bn)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_return_quant_tensor_needs_a_quantized_output():
    layer = linear(return_quant_tensor=True)
    with pytest.raises(QuantLayerConfigurationError) as caught:
        layer(torch.randn(2, 4))
    message = str(caught.value)
    assert "QuantLayer is not correctly configured" in message
    assert "return_quant_tensor=True on QuantLinear(in_features=4, out_features=6" in message
    assert "input_quant" in message and "return_quant_tensor=False" in message


def test_abstract_layer_says_what_is_missing():
    layer = linear()
    with pytest.raises(NotImplementedError, match="does not define its operation"):
        QuantWeightBiasInputOutputLayer.inner_forward_impl(layer, None, None, None)


def test_hierarchy():
    assert issubclass(qnn.QuantLinear, QuantInputOutputLayer)
    assert issubclass(qnn.QuantReLU, QuantNonLinearActLayer)
    assert issubclass(qnn.QuantReLU, LayerProtocol) and issubclass(qnn.QuantLinear, LayerProtocol)


def test_deleted_bias_is_followed():
    layer = linear(bias_quant=Int16Bias, input_quant=Int8ActPerTensorFloat)
    layer.bias = None
    assert layer.quant_bias() is None
    x = torch.randn(2, 4)
    expected = F.linear(layer.input_quant(x).value, layer.quant_weight().value)
    torch.testing.assert_close(layer(x), expected)


def test_bias_given_later_is_quantized():
    layer = linear(bias=False, bias_quant=Int16Bias, input_quant=Int8ActPerTensorFloat)
    layer.register_parameter("bias", nn.Parameter(torch.ones(6)))
    layer(torch.randn(2, 4))
    assert layer.bias_quant.is_quant_enabled
