"""Weights and bias of one gate."""

from __future__ import annotations

import torch

from brevitas.nn.quant_rnn import GateParams, GateWeight
from brevitas.quant import Int8WeightPerChannelFloat, Int8WeightPerTensorFloat, Int32Bias
from brevitas.quant_tensor import IntQuantTensor


def params(**options):
    given = {"weight_quant": Int8WeightPerTensorFloat, "bias_quant": Int32Bias, **options}
    return GateParams(4, 3, True, input_weight=None, dtype=None, device=None, **given)


def quant_input():
    x = torch.randint(-8, 8, (5, 2, 4)) * 0.25
    return IntQuantTensor(x, 0.25, 0.0, 8, signed=True, training=False)


def test_weight():
    weight = GateWeight(4, 3, Int8WeightPerTensorFloat, None, None, weight_bit_width=4)
    assert weight.weight.shape == (3, 4)
    assert weight.out_channels == 3 and weight.output_channel_dim == 0
    assert float(weight().bit_width) == 4


def test_both_weights_share_a_scale():
    gate = params()
    with torch.no_grad():
        gate.hidden_weight.weight.mul_(10)
    largest = gate.hidden_weight.weight.abs().max()
    for weight in (gate.input_weight, gate.hidden_weight):
        torch.testing.assert_close(weight.quant_weight().scale, largest / 127)


def test_scale_of_each_output_spans_both_weights():
    gate = params(weight_quant=Int8WeightPerChannelFloat)
    rows = torch.cat([gate.input_weight.weight, gate.hidden_weight.weight], dim=1)
    expected = rows.abs().amax(dim=1, keepdim=True) / 127
    torch.testing.assert_close(gate.hidden_weight.quant_weight().scale, expected)


def test_bias_is_on_the_grid_of_the_product_with_the_input():
    gate = params()
    x = quant_input()
    step = x.scale * gate.input_weight.quant_weight().scale
    bias = gate.quant_gate(x).bias
    torch.testing.assert_close(bias, torch.round(gate.bias / step) * step)


def test_without_bias():
    gate = GateParams(4, 3, False, Int8WeightPerTensorFloat, Int32Bias, None, None, None)
    assert gate.bias is None and gate.quant_gate(quant_input()).bias is None
    assert [name for name, _ in gate.named_parameters()] == [
        "input_weight.weight",
        "hidden_weight.weight",
    ]


def test_bits_of_the_accumulator():
    gate, bits = params(), torch.tensor(4.0)
    # 7 products of at most 15 * 15: log2(7 * 225 + 1) = 10.6.
    assert float(gate.max_acc_bit_width(bits, bits)) == 11
