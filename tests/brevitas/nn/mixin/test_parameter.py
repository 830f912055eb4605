"""Keywords of weights and biases, and what a layer answers about them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import brevitas.nn as qnn
from brevitas.common import QuantLayerConfigurationError
from brevitas.nn.mixin import QuantBiasMixin, QuantWeightMixin
from brevitas.quant import (
    Int8BiasPerTensorFloatInternalScaling,
    Int8WeightPerChannelFloat,
    Int8WeightPerTensorFloat,
    Int16Bias,
)
from brevitas.quant_tensor import IntQuantTensor


def test_prefixes():
    layer = qnn.QuantLinear(
        2, 2, bias_quant=Int8BiasPerTensorFloatInternalScaling, weight_bit_width=3, bias_bit_width=5
    )
    assert layer.weight_quant.bit_width() == 3
    assert layer.bias_quant.bit_width() == 5


def test_keywords_beat_declarations():
    class Four(Int8WeightPerTensorFloat):
        bit_width = 4

    assert qnn.QuantLinear(2, 2, weight_quant=Four).weight_quant.bit_width() == 4
    layer = qnn.QuantLinear(2, 2, weight_quant=Four, weight_bit_width=2)
    assert layer.weight_quant.bit_width() == 2
    assert Four.bit_width == 4


def test_unquantized_parameters_are_returned_as_they_are():
    layer = qnn.QuantLinear(2, 2, weight_quant=None)
    assert layer.quant_weight() is layer.weight
    assert layer.quant_bias() is layer.bias


def test_quantized_parameters():
    layer = qnn.QuantLinear(2, 2, bias_quant=Int8BiasPerTensorFloatInternalScaling)
    assert isinstance(layer.quant_weight(), IntQuantTensor)
    assert isinstance(layer.quant_bias(), IntQuantTensor)


def test_bias_at_an_unknown_scale():
    layer = qnn.QuantLinear(2, 2, bias_quant=Int16Bias)
    with pytest.raises(QuantLayerConfigurationError, match="Input scale required"):
        layer.quant_bias()


def test_part_of_a_weight():
    layer = qnn.QuantConv2d(2, 4, 3)
    part = layer.quant_weight(subtensor_slice_list=[(0, 2), (1, 2)])
    assert torch.equal(part.value, layer.quant_weight().value[0:2, 1:2])
    assert part.is_valid


class Weighted(QuantWeightMixin, nn.Module):
    def __init__(self, weight_quant, **keywords):
        nn.Module.__init__(self)
        self.weight = nn.Parameter(torch.randn(3, 2))
        QuantWeightMixin.__init__(self, weight_quant, **keywords)


class Biased(QuantBiasMixin, nn.Module):
    def __init__(self, bias_quant, **keywords):
        nn.Module.__init__(self)
        self.bias = nn.Parameter(torch.randn(3))
        QuantBiasMixin.__init__(self, bias_quant, **keywords)


def test_a_layer_with_a_weight_alone():
    layer = Weighted(Int8WeightPerChannelFloat, weight_bit_width=4)
    expected = layer.weight.detach().abs().amax(1, keepdim=True) / 7
    torch.testing.assert_close(layer.quant_weight().scale.detach(), expected)
    assert layer.quant_weight().bit_width == 4
    assert Weighted(None).quant_weight().requires_grad


def test_a_layer_with_a_bias_alone():
    layer = Biased(Int8BiasPerTensorFloatInternalScaling, bias_bit_width=4)
    torch.testing.assert_close(layer.quant_bias().scale, layer.bias.abs().max() / 8)
    assert not layer.bias_quant.cache_inference_quant_bias
    kept = Biased(Int8BiasPerTensorFloatInternalScaling, cache_inference_bias=True)
    assert kept.bias_quant.cache_inference_quant_bias
    assert Biased(None).quant_bias().requires_grad


def test_output_channels_come_first_unless_the_layer_says_otherwise():
    assert Weighted(None).output_channel_dim == 0
    assert qnn.QuantLinear(2, 3).output_channel_dim == 0
    assert qnn.QuantConvTranspose2d(2, 3, 1).output_channel_dim == 1
    assert issubclass(qnn.QuantLinear, QuantBiasMixin)
