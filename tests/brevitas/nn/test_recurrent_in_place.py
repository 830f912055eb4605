"""A step that writes into buffers has the bits of the step that makes new tensors."""

from __future__ import annotations

import pytest
import torch

import brevitas.nn as qnn
from brevitas.nn._recurrent_cell import State
from brevitas.quant import Int8ActPerTensorFloat, ShiftedUint8ActPerTensorFloat
from recurrent import FLOAT_LSTM, FLOAT_RNN, collected, sequence

CASES = [
    (qnn.QuantLSTM, {}),
    (qnn.QuantLSTM, {"coupled_input_forget_gates": True}),
    (qnn.QuantLSTM, {"gate_acc_bit_width_impl_type": "parameter"}),
    (qnn.QuantLSTM, {"sigmoid_quant": None, "cell_state_quant": None}),
    (qnn.QuantLSTM, {"tanh_quant": ShiftedUint8ActPerTensorFloat}),
    (qnn.QuantLSTM, FLOAT_LSTM),
    (qnn.QuantRNN, {}),
    (qnn.QuantRNN, {"nonlinearity": "relu"}),
    (qnn.QuantRNN, FLOAT_RNN),
]


def pure_step(kind, size, **options):
    torch.manual_seed(0)
    layer = kind(4, size, **options)
    layer = collected(layer, sequence(dtype=torch.float32)).eval()
    return layer.layers[0][0].cell.prepare()


# Whole vectors of every processor, some elements more, and fewer than a vector.
@pytest.mark.parametrize("size", [32, 21, 3])
@pytest.mark.parametrize(("kind", "options"), CASES, ids=str)
@torch.no_grad()
def test_bits(kind, options, size):
    step = pure_step(kind, size, **options)
    is_lstm = kind is qnn.QuantLSTM
    count = 1 if not is_lstm else 3 if "coupled_input_forget_gates" in options else 4
    gates = 3 * torch.randn(5, count, size)
    states = tuple(torch.randn(5, size) for _ in range(1 + is_lstm))
    expected = step(gates, State(*states))
    out = tuple(torch.empty(5, size) for _ in states)
    step.pure().writing(gates)(gates, states, out)
    for ours, theirs in zip(out, expected, strict=False):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": torch.bfloat16},
        {"io_quant": Int8ActPerTensorFloat.let(float_to_int_impl_type="dpu")},
    ],
    ids=["half", "rounding"],
)
def test_steps_that_need_new_tensors(options):
    layer = qnn.QuantLSTM(4, 3, **options)
    x = sequence(dtype=options.get("dtype", torch.float32))
    pure = collected(layer, x).eval().layers[0][0].cell.prepare().pure()
    assert pure.writing(torch.empty(2, 4, 3, dtype=x.dtype)) is None
    assert bool(layer(x)[0].isfinite().all())
