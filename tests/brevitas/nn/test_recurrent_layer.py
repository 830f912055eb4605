"""A sequence as one operation and step by step: equal values, equal gradients."""

from __future__ import annotations

import pytest
import torch

import brevitas.nn as qnn
from brevitas import config
from brevitas.nn import _recurrent_layer
from brevitas.quant import Int8WeightPerChannelFloat
from recurrent import FLOAT_LSTM, FLOAT_RNN, assert_same_run, collected, run, sequence, step_by_step

# float64: a few roundings of sums of a few hundred terms.
CLOSE = {"rtol": 1e-9, "atol": 1e-12}
CASES = [
    (qnn.QuantLSTM, {}),
    (qnn.QuantLSTM, {"num_layers": 2, "bidirectional": True}),
    (qnn.QuantLSTM, {"coupled_input_forget_gates": True}),
    (qnn.QuantLSTM, {"gate_acc_bit_width_impl_type": "parameter"}),
    (qnn.QuantLSTM, {"sigmoid_quant": None, "weight_quant": Int8WeightPerChannelFloat}),
    (qnn.QuantLSTM, FLOAT_LSTM),
    (qnn.QuantRNN, {}),
    (qnn.QuantRNN, {"nonlinearity": "relu", "bidirectional": True}),
    (qnn.QuantRNN, FLOAT_RNN),
]


def build(kind, options):
    torch.manual_seed(0)
    return collected(kind(4, 3, dtype=torch.float64, **options), sequence())


def states_for(layer):
    count = layer.num_layers * layer.num_directions
    number = 2 if isinstance(layer, qnn.QuantLSTM) else 1
    return [torch.randn(count, 2, 3, dtype=torch.float64) for _ in range(number)]


@pytest.mark.parametrize(("kind", "options"), CASES)
@pytest.mark.parametrize("with_states", [False, True])
def test_one_operation_equals_the_loop(kind, options, with_states):
    layer = build(kind, options)
    states = states_for(layer) if with_states else []
    whole = run(layer, sequence(), *states)
    with step_by_step():
        steps = run(layer, sequence(), *states)
    assert torch.equal(whole["output 0"], steps["output 0"])
    assert_same_run(whole, steps, **CLOSE)


def test_hooked_quantizer_is_called_at_every_step():
    layer, calls = build(qnn.QuantLSTM, {}), []
    proxy = layer.layers[0][0].cell.cell_tanh_quant
    expected = layer(sequence())[0]
    proxy.register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(layer(sequence())[0], expected)
    assert len(calls) == 5


def test_replaced_activation_is_called():
    layer = build(qnn.QuantLSTM, {})
    before = layer(sequence())[0]
    fused = layer.layers[0][0].cell.cell_tanh_quant.fused_activation_quant_proxy
    fused.activation_impl = torch.nn.Hardtanh()
    assert not torch.equal(layer(sequence())[0], before)


def test_one_operation_where_grids_are_fixed(monkeypatch):
    layer, calls = build(qnn.QuantLSTM, {"bidirectional": True}), []
    original = _recurrent_layer.run_recurrence
    monkeypatch.setattr(
        _recurrent_layer, "run_recurrence", lambda *args: calls.append(1) or original(*args)
    )
    layer(sequence())
    assert len(calls) == 2
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(sequence())
    assert len(calls) == 2


def test_second_derivatives():
    layer = build(qnn.QuantLSTM, FLOAT_LSTM)
    x = sequence(steps=3).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: layer(x)[0], (x,))


def test_functional_gradients():
    layer = build(qnn.QuantLSTM, {})
    x = sequence()
    state = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters):
        # A quantizer that is reached by two names needs no tying: it is one module.
        output = torch.func.functional_call(layer, parameters, (x,), tie_weights=False)[0]
        return output.square().sum()

    found = torch.func.grad(loss)(state)
    layer(x)[0].square().sum().backward()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, **CLOSE)


@pytest.mark.long
def test_compiled_step():
    layer = build(qnn.QuantLSTM, {"num_layers": 2}).float()
    x = sequence(dtype=torch.float32)
    expected = run(layer, x)
    with config.overrides(JIT_ENABLED=True):
        found = run(layer, x)
    assert torch.equal(found["output 0"], expected["output 0"])
    # float32, with sums of a few hundred terms.
    assert_same_run(found, expected, rtol=1e-4, atol=1e-5)
