"""The backward pass of an LSTM in buffers equals that of autograd on the whole sequence."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

from brevitas.nn._recurrent_cell import PureStep
from brevitas.nn._recurrent_gradients import supports_gradients
from recurrent import FLOAT_LSTM, assert_same_run, collected, lstm, run, sequence

SERVED = [
    {},
    {"num_layers": 2, "bidirectional": True},
    {"sigmoid_quant": None, "cell_state_quant": None},
    {"gate_acc_quant": None, "shared_intra_layer_gate_acc_quant": True},
    {"io_quant": None, "bias_quant": None, "tanh_quant": None},
    {"gate_acc_scaling_impl_type": "const", "gate_acc_scaling_const": 3.0},
    FLOAT_LSTM,
]


def operations(layer):
    return layer.layers[0][0].cell.prepare().pure().operations


@pytest.mark.parametrize("options", SERVED, ids=str)
def test_gradients(options):
    torch.manual_seed(0)
    layer = collected(lstm(**options), sequence())
    assert supports_gradients(operations(layer), torch.empty(2, 4, 3, dtype=torch.float64))
    # Large enough for clamped elements.
    x = 4 * sequence()
    found = run(layer, x)
    with mock.patch.object(PureStep, "gradients", lambda *_: None):
        expected = run(layer, x)
    assert_same_run(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [{"coupled_input_forget_gates": True}, {"gate_acc_bit_width_impl_type": "parameter"}],
    ids=str,
)
def test_steps_left_to_autograd(options):
    layer = collected(lstm(**options), sequence())
    count = 3 if "coupled_input_forget_gates" in options else 4
    like = torch.empty(2, count, 3, dtype=torch.float64)
    assert not supports_gradients(operations(layer), like)


def test_some_parameters_are_frozen():
    torch.manual_seed(0)
    layer = collected(lstm(), sequence())
    expected = run(layer, sequence())
    frozen = [n for n, _ in layer.named_parameters() if "sigmoid" in n or "output_quant" in n]
    parameters = dict(layer.named_parameters())
    for name in frozen:
        parameters[name].requires_grad_(False)
        parameters[name].grad = None
        del expected[f"gradient of {name}"]
    assert_same_run(run(layer, sequence()), expected, rtol=1e-9, atol=1e-12)


def test_a_second_backward_pass_gives_the_same():
    torch.manual_seed(0)
    layer = collected(lstm(), sequence())
    loss = layer(sequence())[0].square().sum()
    parameters = list(layer.parameters())
    first, second = (
        torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
        for _ in range(2)
    )
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
