"""Keywords of weights and biases, and what a layer answers about them."""

from __future__ import annotations

import pytest
import torch

import brevitas.nn as qnn
from brevitas.common import QuantLayerConfigurationError
from brevitas.nn.mixin import QuantBiasMixin, QuantWeightMixin
from brevitas.quant import (
    Int8BiasPerTensorFloatInternalScaling,
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


def test_output_channel_dim_is_declared_by_the_layer():
    with pytest.raises(NotImplementedError, match="does not declare output_channel_dim"):
        _ = QuantWeightMixin().output_channel_dim
    assert issubclass(qnn.QuantLinear, QuantBiasMixin)
