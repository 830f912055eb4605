"""Keywords of inputs, outputs and activation functions reach the right quantizer."""

from __future__ import annotations

import brevitas.nn as qnn
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
