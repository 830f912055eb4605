"""Layouts of sequences and states."""

from __future__ import annotations

import pytest
import torch

from brevitas.nn._recurrent_states import Layout, joined, split_states
from brevitas.quant_tensor import IntQuantTensor


@pytest.mark.parametrize(
    ("shape", "batch_first", "inside"),
    [((5, 2, 4), False, (5, 2, 4)), ((2, 5, 4), True, (5, 2, 4)), ((5, 4), True, (5, 1, 4))],
)
def test_layouts(shape, batch_first, inside):
    x = torch.randn(shape)
    layout = Layout.of(x, batch_first, 4, "QuantRNN")
    steps = layout.to_steps(x)
    assert steps.shape == inside
    assert torch.equal(layout.from_steps(steps), x)


@pytest.mark.parametrize("shape", [(5, 2, 3), (4,), (1, 5, 2, 4), (0, 2, 4)])
def test_other_inputs_are_refused(shape):
    with pytest.raises(ValueError, match="steps, batch, features"):
        Layout.of(torch.zeros(shape), False, 4, "QuantRNN")


@pytest.mark.parametrize(
    "states",
    [
        torch.randn(2, 5, 3),
        [torch.randn(5, 3), torch.randn(5, 3)],
        (torch.randn(1, 5, 3), torch.randn(1, 5, 3)),
    ],
)
def test_states(states):
    found = split_states("hx", states, 2, 5, 3, "QuantRNN")
    for place, state in enumerate(found):
        assert torch.equal(state, states[place].reshape(5, 3))


def test_absent_states_and_those_without_a_batch():
    assert split_states("hx", None, 2, 5, 3, "QuantRNN") == [None, None]
    found = split_states("hx", torch.ones(2, 3), 2, 1, 3, "QuantRNN")
    assert [state.shape for state in found] == [(1, 3)] * 2
    assert split_states("hx", torch.ones(5, 3), 1, 5, 3, "QuantRNN")[0].shape == (5, 3)


@pytest.mark.parametrize("states", [torch.zeros(3, 5, 3), torch.zeros(2, 4, 3), [torch.ones(5, 3)]])
def test_other_states_are_refused(states):
    with pytest.raises(ValueError, match=r"hx: .*expected \[2, 5, 3\]"):
        split_states("hx", states, 2, 5, 3, "QuantRNN")


def quantized(scale, training):
    fields = (torch.ones(1, 2), torch.tensor(scale), 0.0, 8)
    return IntQuantTensor(*fields, signed=True, training=training)


def test_joined_scales():
    in_training = joined([quantized(0.25, True), quantized(0.75, True)], 0, False)
    assert float(in_training.scale) == 0.5
    evaluated = joined([quantized(0.25, False), quantized(0.25, False)], 0, False)
    assert float(evaluated.scale) == 0.25
    dynamic = joined([quantized(0.25, False), quantized(0.5, False)], 0, True)
    assert torch.equal(dynamic.scale, torch.tensor([[0.25], [0.5]]))
    assert dynamic.is_valid
    assert type(joined([quantized(0.25, True), torch.ones(1, 2)], 0, False)) is torch.Tensor
