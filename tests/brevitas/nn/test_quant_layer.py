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
from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer as QuantWBIOL
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8WeightPerChannelFloat,
    Int8WeightPerTensorFloat,
    Int16Bias,
)

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


class InputOutput(QuantInputOutputLayer, nn.Module):
    """The sum of two tensors, each quantized by one quantizer."""

    def __init__(self, input_quant, output_quant, tie, return_quant_tensor, **keywords):
        nn.Module.__init__(self)
        QuantInputOutputLayer.__init__(
            self, input_quant, output_quant, tie, return_quant_tensor, **keywords
        )

    def forward(self, x, y):
        total = self.input_quant(x) + self.input_quant(y)
        return self.pack_output(self.output_quant(total))


@pytest.mark.parametrize("tie", [False, True])
def test_layer_with_input_and_output(tie):
    layer = InputOutput(Int8ActPerTensorFloat, Int8ActPerTensorFloat, tie, True, input_bit_width=4)
    assert (layer.output_quant is layer.input_quant) is tie
    out = layer(torch.tensor([-4.0, 2.0]), torch.tensor([1.0, 3.0]))
    assert out.is_valid and out.bit_width == (4 if tie else 8)


def test_layer_with_input_and_output_warns_about_keywords():
    with pytest.warns(UserWarning, match="output_bit_width=4.*output_quant is None here"):
        InputOutput(Int8ActPerTensorFloat, None, False, False, output_bit_width=4)
    with pytest.warns(UserWarning, match="weight_bit_width=4 is read by none"):
        InputOutput(Int8ActPerTensorFloat, None, False, False, weight_bit_width=4)


class UserLinear(QuantWBIOL, nn.Linear):
    """What users write: the constructor of each base, forward and the operation."""

    def __init__(self, *sizes, return_quant_tensor=False, **quantizers):
        nn.Linear.__init__(self, *sizes)
        names = ("weight_quant", "bias_quant", "input_quant", "output_quant")
        given = [quantizers.pop(name, None) for name in names]
        QuantWBIOL.__init__(self, *given, return_quant_tensor, **quantizers)

    def forward(self, x):
        return self.forward_impl(x)

    def inner_forward_impl(self, x, quant_weight, quant_bias):
        return F.linear(x, quant_weight, quant_bias)


USER_CASES = {
    "float": {},
    "weight": {"weight_quant": Int8WeightPerTensorFloat, "weight_bit_width": 3},
    "per channel": {"weight_quant": Int8WeightPerChannelFloat, "weight_bit_width": 3},
    "bias": {
        "weight_quant": Int8WeightPerChannelFloat,
        "input_quant": Int8ActPerTensorFloat,
        "bias_quant": Int16Bias,
    },
    "output": {
        "weight_quant": Int8WeightPerTensorFloat,
        "input_quant": Int8ActPerTensorFloat,
        "output_quant": Int8ActPerTensorFloat,
        "return_quant_tensor": True,
    },
    "accumulator": {
        "weight_quant": Int8WeightPerChannelFloat,
        "input_quant": Int8ActPerTensorFloat,
        "bias_quant": Int16Bias,
        "return_quant_tensor": True,
    },
}


@pytest.mark.parametrize("case", USER_CASES)
def test_layer_of_a_user(case):
    """It computes what the layer of ours does, training and evaluation, values and gradients."""
    layers = []
    for build in (UserLinear, qnn.QuantLinear):
        torch.manual_seed(0)
        keywords = {"weight_quant": None} | USER_CASES[case]
        layers.append(build(4, 6, **keywords))
    assert layers[0].state_dict().keys() == layers[1].state_dict().keys()
    for training in (True, False):
        results = []
        for layer in layers:
            x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
            out = layer.train(training)(x)
            results.append(out if isinstance(out, torch.Tensor) else out.value)
            if not isinstance(out, torch.Tensor):
                results[-1] = torch.cat([out.value, out.scale.expand(out.value.shape)])
                assert out.is_valid
            layer.zero_grad()
            results[-1].square().sum().backward()
        assert torch.equal(*results)
        pairs = zip(layers[0].parameters(), layers[1].parameters(), strict=True)
        assert all(
            (a.grad is None and b.grad is None) or torch.equal(a.grad, b.grad) for a, b in pairs
        )


def test_layer_of_a_user_is_compiled_and_loaded():
    layer = UserLinear(4, 6, weight_quant=LearnedWeight, input_quant=Int8ActPerTensorFloat)
    x = torch.randn(3, 4)
    layer(x)
    other = UserLinear(4, 6, weight_quant=LearnedWeight, input_quant=Int8ActPerTensorFloat)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.eval()(x), layer.eval()(x))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), layer(x))


def test_layer_of_a_user_says_what_an_accumulator_bit_width_needs():
    layer = UserLinear(4, 6, weight_quant=Int8WeightPerTensorFloat)
    with pytest.raises(NotImplementedError, match="needs the class attribute accumulator_function"):
        layer.max_acc_bit_width(torch.tensor(8.0), torch.tensor(8.0))
    assert layer.per_elem_ops == 8


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
