"""One step: the formula in plain torch, and the step as a pure function."""

from __future__ import annotations

import pytest
import torch

import brevitas.nn as qnn
from brevitas.nn._recurrent_cell import State
from recurrent import FLOAT_LSTM, FLOAT_RNN, collected, lstm, sequence


def tensors(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("coupled", [False, True])
def test_formula_of_an_lstm(coupled):
    torch.manual_seed(0)
    layer = lstm(coupled_input_forget_gates=coupled, **FLOAT_LSTM)
    count = 3 if coupled else 4
    gates, hidden, cell = tensors(2, count, 3), tensors(2, 3), tensors(2, 3)
    state = layer.layers[0][0].cell.prepare()(gates, State(hidden, cell))
    parts = list(gates.unbind(1))
    enter, leave, new = torch.sigmoid(parts[0]), torch.sigmoid(parts[-2]), torch.tanh(parts[-1])
    forget = 1 - enter if coupled else torch.sigmoid(parts[1])
    expected = forget * cell + enter * new
    torch.testing.assert_close(state.cell, expected)
    torch.testing.assert_close(state.hidden, leave * torch.tanh(expected))


def test_formula_of_an_lstm_with_quantizers():
    torch.manual_seed(0)
    cell = collected(lstm(), sequence()).eval().layers[0][0].cell
    gates, before = tensors(2, 4, 3), tensors(2, 3)
    state = cell.prepare()(gates, State(before, before))

    def quantized(name, x):
        return getattr(cell, f"{name}_quant")(x).value

    sums = dict(zip(("input", "forget", "output", "cell"), gates.unbind(1), strict=True))
    sums = {name: quantized(f"{name}_acc", x) for name, x in sums.items()}
    sigmoids = {n: quantized(f"{n}_sigmoid", sums[n]) for n in ("input", "forget", "output")}
    new = quantized("cell_tanh", sums["cell"])
    terms = (sigmoids["forget"] * before, sigmoids["input"] * new)
    expected = quantized("cell_state", sum(quantized("cell_state", term) for term in terms))
    hidden = sigmoids["output"] * quantized("hidden_state_tanh", expected)
    assert torch.equal(state.cell, expected)
    assert torch.equal(state.hidden, quantized("output", hidden))


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_formula_of_an_elman_cell(nonlinearity):
    layer = qnn.QuantRNN(4, 3, nonlinearity=nonlinearity, **FLOAT_RNN)
    gates = torch.randn(2, 1, 3)
    state = layer.layers[0][0].cell.prepare()(gates, State(torch.zeros(2, 3)))
    assert torch.equal(state.hidden, getattr(torch, nonlinearity)(gates[:, 0]))
    assert state.cell is None


def test_pure_step():
    torch.manual_seed(0)
    cell = collected(lstm(), sequence()).layers[0][0].cell
    step = cell.prepare()
    pure = step.pure()
    gates, states = tensors(2, 4, 3), (tensors(2, 3), tensors(2, 3))
    expected = step(gates, State(*states))
    for computed in (
        pure(pure.parameters, gates, states),
        pure.apart()(pure.parameters, gates.unbind(1), states),
    ):
        assert torch.equal(computed[0], expected.hidden)
        assert torch.equal(computed[1], expected.cell)
    other = pure([2 * tensor for tensor in pure.parameters], gates, states)
    assert not torch.equal(other[0], expected.hidden)


def test_kinds_tell_functions_apart():
    kinds = [
        collected(lstm(**options), sequence()).layers[0][0].cell.prepare().pure().kind
        for options in ({}, {}, {"tanh_bit_width": 4}, {"coupled_input_forget_gates": True})
    ]
    assert kinds[0] == kinds[1]
    assert len(set(kinds)) == 3


def test_no_pure_step_while_statistics_are_collected():
    assert lstm().layers[0][0].cell.prepare().pure() is None


def test_quantizers_of_coupled_and_shared_gates():
    coupled = lstm(coupled_input_forget_gates=True).layers[0][0].cell
    assert coupled.forget_acc_quant is coupled.input_acc_quant
    assert coupled.forget_sigmoid_quant is coupled.input_sigmoid_quant
    shared = lstm(shared_intra_layer_gate_acc_quant=True).layers[0][0].cell
    assert shared.cell_acc_quant is shared.input_acc_quant
    assert shared.output_sigmoid_quant is not shared.input_sigmoid_quant


def test_coupled_forget_gate_is_on_the_grid_of_the_input_gate():
    cell = collected(lstm(coupled_input_forget_gates=True), sequence()).eval().layers[0][0].cell
    step = cell.prepare()
    grid = step.one.operation.grid
    one = step.one(torch.ones(1, dtype=torch.float64))
    assert torch.equal(one, grid.quantize(torch.ones(1, dtype=torch.float64)))
    # Called, the quantizer gives the same, and counts as one more call while it collects.
    quantizer = cell.input_sigmoid_quant
    quantizer.register_forward_hook(lambda *_: None)
    assert cell.prepare().one.operation is None
    assert torch.equal(cell.prepare().one(torch.ones(1, dtype=torch.float64)), one)


def test_coupled_gates_count_their_one():
    layer = lstm(coupled_input_forget_gates=True)
    layer(sequence(steps=5))
    fused = layer.layers[0][0].cell.input_sigmoid_quant.fused_activation_quant_proxy
    assert fused.tensor_quant.scaling_impl.counter == 10
