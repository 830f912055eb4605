"""Weights of all gates in one operation equal those of each gate."""

from __future__ import annotations

import pytest
import torch

from brevitas.core.bit_width import BitWidthConst
from brevitas.nn import _quant_gates
from brevitas.nn._quant_gates import quant_gates
from brevitas.quant import Int8WeightPerChannelFloat, ShiftedUint8WeightPerTensorFloat
from recurrent import lstm, sequence


def gates_of(layer):
    return [layer.layers[0][0].gate(name) for name in layer.layers[0][0].gates]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_quant": Int8WeightPerChannelFloat},
        {"weight_quant": ShiftedUint8WeightPerTensorFloat, "bias_quant": None},
        {"weight_bit_width_impl_type": "parameter"},
        {"weight_scaling_impl_type": "parameter_from_stats"},
        {"shared_intra_layer_weight_quant": True},
        {"weight_quant": None, "bias_quant": None},
        {"bias": False},
        {"bias_bit_width": 4},
    ],
    ids=str,
)
def test_equal_to_each_gate(options):
    torch.manual_seed(0)
    layer = lstm(**options)
    x = layer.layers[0][0].io_quant(sequence())
    gates = gates_of(layer)
    joint = quant_gates(gates, x)
    each = [gate.quant_gate(x) for gate in gates]
    assert torch.equal(joint.input_weight, torch.cat([gate.input_weight for gate in each]))
    assert torch.equal(joint.hidden_weight, torch.cat([gate.hidden_weight for gate in each]))
    if options.get("bias") is False:
        assert joint.bias is None
    else:
        assert torch.equal(joint.bias, torch.cat([gate.bias for gate in each]))


def test_hooked_quantizer_is_called():
    layer = lstm()
    calls = []
    proxy = layer.layers[0][0].input_gate_params.input_weight.weight_quant
    proxy.register_forward_hook(lambda *_: calls.append(1))
    layer(sequence())
    assert len(calls) == 2


@pytest.mark.parametrize("change", ["hook", "cache", "bits"])
def test_biases_that_are_quantized_one_by_one(change):
    layer = lstm()
    x = layer.layers[0][0].io_quant(sequence())
    gates = gates_of(layer)
    calls = []
    if change == "hook":
        gates[1].bias_quant.register_forward_hook(lambda *_: calls.append(1))
    elif change == "cache":
        gates[1].bias_quant.cache_inference_quant_bias = True
    else:
        gates[1].bias_quant.tensor_quant.msb_clamp_bit_width_impl = BitWidthConst(4)
    joint = quant_gates(gates, x)
    assert torch.equal(joint.bias, torch.cat([gate.quant_gate(x).bias for gate in gates]))
    assert len(calls) == (2 if change == "hook" else 0)


def test_quantizers_of_one_operation(monkeypatch):
    joint = []
    original = _quant_gates._on_one_grid
    monkeypatch.setattr(
        _quant_gates, "_on_one_grid", lambda *args: joint.append(1) or original(*args)
    )
    lstm(num_layers=2)(sequence())
    assert len(joint) == 2
