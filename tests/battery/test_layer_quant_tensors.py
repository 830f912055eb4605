"""What holds for every layer: it takes quantized tensors, and returns them where asked to."""

from __future__ import annotations

import pytest
import torch

import brevitas.nn as qnn
from brevitas.quant import Int8WeightPerTensorFloat
from brevitas.quant_tensor import QuantTensor
from layer_rows import ROWS, Kind
from layers import build, data, numbers, run, trained

REAL = [name for name, row in ROWS.items() if row.kind is Kind.REAL]
WEIGHTED = [name for name, row in ROWS.items() if row.has_weight]
COMPUTING = [name for name, row in ROWS.items() if row.computes]
RETURNING = [name for name, row in ROWS.items() if row.returns is not None]
# While statistics are collected, each tensor that a quantizer is given has a scale of its own; what
# is made of several of them has the mean of their scales, which fits none of them.
OF_SEVERAL = ("cat", "rnn", "lstm", "lstm_shared", "lstm_tied")


def quantized(name):
    """The input of a row with a scale."""
    if ROWS[name].kind is not Kind.REAL:
        return data(name)
    identity = qnn.QuantIdentity(return_quant_tensor=True)
    identity(data(name))
    return identity.eval()(data(name))


@pytest.mark.parametrize("name", REAL)
def test_a_quantized_input_counts_by_its_value(name):
    layer, x = trained(name).eval(), quantized(name)
    assert torch.equal(numbers(name, layer, x), numbers(name, layer, x.value))


@pytest.mark.parametrize("name", RETURNING)
def test_returns_valid_quantized_tensors(name):
    row = ROWS[name]
    layer, x = build(name, **row.returns), quantized(name)
    for mode in (True, False):
        outputs = run(name, layer.train(mode), x)
        if row.layer is qnn.QuantMultiheadAttention:
            outputs.pop()  # the weights of attention are plain
        assert all(isinstance(y, QuantTensor) for y in outputs)
        assert all(y.is_valid for y in outputs) or (mode and name in OF_SEVERAL)
    plainly = [y.value for y in outputs]
    if name == "attention_product":
        layer.sdpa_output_quant.return_quant_tensor = False
    elif name == "leaky_relu":
        layer.output_quant.return_quant_tensor = False
    elif row.builder:
        layer.layer.return_quant_tensor = False
    else:
        layer.return_quant_tensor = False
        if row.layer is qnn.QuantMultiheadAttention:
            layer.out_proj.return_quant_tensor = False
    torch.manual_seed(0)
    for ours, expected in zip(run(name, layer, x), plainly, strict=False):
        assert type(ours) is torch.Tensor and torch.equal(ours, expected)


@pytest.mark.parametrize("name", COMPUTING)
def test_scale_and_bits_of_the_sums(name):
    layer = build(name, **ROWS[name].returns)
    (output,) = run(name, layer, data(name))
    weight, x = layer.quant_weight(), layer.input_quant(data(name))
    torch.testing.assert_close(output.scale.flatten(), (weight.scale * x.scale).flatten())
    assert output.bit_width == layer.max_acc_bit_width(x.bit_width, weight.bit_width)


@pytest.mark.parametrize("name", [n for n in COMPUTING if ROWS[n].layer is not qnn.QuantScaleBias])
def test_unbatched_input(name):
    layer, x = trained(name).eval(), data(name)
    # One row gives the same sums as the whole batch up to their order: eps of float32 times
    # the number of terms, far below half a step; an output may still round the other way.
    step = float(layer.output_quant.scale().detach())
    difference = (layer(x[0]) - layer(x)[0]).detach().abs().max()
    assert float(difference) <= step * 1.0001


@pytest.mark.parametrize("name", WEIGHTED)
def test_weight_is_quantized(name):
    layer = build(name, weight_quant=Int8WeightPerTensorFloat)
    scale = layer.weight.detach().abs().max() / 127
    weight = layer.quant_weight()
    torch.testing.assert_close(weight.scale, scale)
    # Rounding to the nearest integer is off by at most half a step.
    assert float((weight.value - layer.weight).detach().abs().max()) <= float(scale) * 0.5001
