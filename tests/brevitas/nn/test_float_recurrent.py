"""Float checkpoints become parameters of gates."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import brevitas.nn as qnn
from brevitas.nn._float_recurrent import split_float_parameters
from recurrent import FLOAT_LSTM


def test_gates_and_biases():
    twin = nn.LSTM(4, 3)
    state = dict(twin.state_dict())
    names = ["i", "f", "g", "o"]
    assert split_float_parameters(state, "", (0, 0), names, 3) is None
    rows = slice(3, 6)
    start = "layers.0.0.f."
    assert torch.equal(state[start + "input_weight.weight"], twin.weight_ih_l0[rows])
    assert torch.equal(state[start + "hidden_weight.weight"], twin.weight_hh_l0[rows])
    assert torch.equal(state[start + "bias"], (twin.bias_ih_l0 + twin.bias_hh_l0)[rows])
    assert len(state) == 12


def test_other_checkpoints_stay():
    state = {"layers.0.0.gate_params.bias": torch.zeros(3)}
    assert split_float_parameters(state, "", (0, 0), ["gate_params"], 3) is None
    assert list(state) == ["layers.0.0.gate_params.bias"]


def test_inside_of_a_model():
    twin = nn.Sequential(nn.LSTM(4, 3, bidirectional=True))
    layer = nn.Sequential(qnn.QuantLSTM(4, 3, bidirectional=True, **FLOAT_LSTM))
    layer.load_state_dict(twin.state_dict())
    x = torch.randn(5, 2, 4)
    torch.testing.assert_close(layer(x)[0], twin(x)[0])


def test_assigned_parameters_are_their_own():
    layer = qnn.QuantLSTM(4, 3, device="meta", **FLOAT_LSTM)
    layer.load_state_dict(nn.LSTM(4, 3).state_dict(), assign=True)
    gate = layer.layers[0][0].input_gate_params
    assert gate.bias.untyped_storage().nbytes() == 3 * 4


def test_coupled_gates_have_none_to_load():
    layer = qnn.QuantLSTM(4, 3, coupled_input_forget_gates=True, **FLOAT_LSTM)
    with pytest.raises(RuntimeError, match="coupled gates"):
        layer.load_state_dict(nn.LSTM(4, 3).state_dict())
