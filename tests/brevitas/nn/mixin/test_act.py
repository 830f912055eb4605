"""Keywords of inputs, outputs and activation functions reach the right quantizer."""

from __future__ import annotations

import torch
from torch import nn

import brevitas.nn as qnn
from brevitas.nn.mixin import QuantInputMixin, QuantNonLinearActMixin, QuantOutputMixin
from brevitas.quant import Int8ActPerTensorFloat, Uint8ActPerTensorFloat


def test_prefixes_of_input_and_output():
    layer = qnn.QuantLinear(
        2,
        2,
        input_quant=Int8ActPerTensorFloat,
        output_quant=Uint8ActPerTensorFloat,
        input_bit_width=3,
        output_bit_width=5,
    )
    assert layer.input_quant.bit_width() == 3 and layer.input_quant.is_signed
    assert layer.output_quant.bit_width() == 5 and not layer.output_quant.is_signed


def test_no_prefix_for_an_activation_function():
    layer = qnn.QuantReLU(input_quant=Int8ActPerTensorFloat, bit_width=3, input_bit_width=5)
    assert layer.act_quant.bit_width() == 3
    assert layer.input_quant.bit_width() == 5


def test_none_stands_for_a_proxy_that_passes_on():
    layer = qnn.QuantReLU(act_quant=None)
    assert not layer.act_quant.is_quant_enabled and not layer.input_quant.is_quant_enabled
    assert type(layer.act_quant.fused_activation_quant_proxy.activation_impl).__name__ == "ReLU"


class Input(QuantInputMixin, nn.Module):
    def __init__(self, input_quant, **keywords):
        nn.Module.__init__(self)
        QuantInputMixin.__init__(self, input_quant, **keywords)


class Output(QuantOutputMixin, nn.Module):
    def __init__(self, output_quant, **keywords):
        nn.Module.__init__(self)
        QuantOutputMixin.__init__(self, output_quant, **keywords)


class Activation(QuantNonLinearActMixin, nn.Module):
    def __init__(self, act_impl, passthrough_act, act_quant, **keywords):
        nn.Module.__init__(self)
        QuantNonLinearActMixin.__init__(self, act_impl, passthrough_act, act_quant, **keywords)


def test_a_layer_with_an_input_or_an_output_alone():
    x = torch.tensor([-4.0, 2.0])
    for layer, name in (
        (Input(Int8ActPerTensorFloat, input_bit_width=3), "input_quant"),
        (Output(Int8ActPerTensorFloat, output_bit_width=3), "output_quant"),
    ):
        proxy = getattr(layer, name)
        assert proxy.bit_width() == 3
        torch.testing.assert_close(proxy(x).scale.detach(), torch.tensor(1.0))
    assert Input(None).input_quant(x) is x and Output(None).output_quant(x) is x


def test_a_layer_with_an_activation_function_alone():
    layer = Activation(nn.ReLU, True, Uint8ActPerTensorFloat, bit_width=3)
    assert layer.act_quant.bit_width() == 3
    assert layer.act_quant(torch.tensor([-4.0, 7.0])).value.tolist() == [0.0, 7.0]
