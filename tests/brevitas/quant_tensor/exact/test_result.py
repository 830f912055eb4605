"""Tests of the way from integers to a tensor: fields, checks, learned bit widths."""

from __future__ import annotations

import pytest
import torch

from brevitas.quant_tensor import IntQuantTensor
from brevitas.quant_tensor.exact._operand import read_operand
from brevitas.quant_tensor.exact._result import Outcome, to_register
from brevitas.quant_tensor.exact._settings import Settings
from quant_tensors import make


def doubled(x, settings=None):
    """The outcome of `q + q`, in a register."""
    operand = read_operand(x, "add", "ROUND")
    zero_point = 0.0 if x._has_zero_point is False else 2 * x.zero_point
    outcome = Outcome(
        operands=(operand, operand),
        integers=2 * operand.integers,
        range=operand.range.plus(operand.range),
        scale=x.scale,
        zero_point=zero_point,
        real=lambda: 2 * operand.real(),
    )
    return to_register(outcome, settings or Settings())


def test_fields_keep_their_dtype_and_what_is_known():
    x, _ = make((4,), 0.5)
    result = doubled(x)
    assert result._has_zero_point is False and result.bit_width.dtype == torch.float32
    assert result.scale is x.scale and result.training is False
    double = x.set(bit_width=torch.tensor(8.0, dtype=torch.float64, requires_grad=True))
    assert doubled(double).bit_width.dtype == torch.float64
    assert doubled(x.set(zero_point=torch.tensor(1.0)))._has_zero_point is None
    assert doubled(x.set(training=True)).training is True


def test_learned_and_constant_bit_widths_agree():
    x, integers = make((20,), 0.1, 2.0, 6, False)
    learned = x.set(bit_width=torch.tensor(6.0, requires_grad=True))
    for settings in (Settings(), Settings(bit_width=4), Settings(signed=True)):
        result, expected = doubled(learned, settings), doubled(x, settings)
        assert torch.equal(result.value, expected.value)
        assert result.bit_width == expected.bit_width and result.signed == expected.signed
    assert doubled(learned).bit_width.requires_grad


def test_a_learned_bit_width_in_messages():
    x, _ = make((4,), 0.5)
    wide = x.set(bit_width=torch.tensor(60.0, requires_grad=True))
    with pytest.raises(RuntimeError, match="may give 1.15e"):
        doubled(wide)


def test_integers_that_a_value_cannot_hold_are_refused():
    x = IntQuantTensor(torch.tensor([2.0**23 - 1, 1.0]), 1.0, 0.0, 24, True, False)
    assert doubled(x).value.tolist() == [2**24 - 2, 2]
    odd = x.set(zero_point=torch.tensor(0.5))
    with pytest.raises(RuntimeError, match="1 of 2, the first of them .* differ when read back"):
        doubled(odd.set(value=torch.tensor([2.0**24 - 3, 1.0]), bit_width=25.0))


def test_no_gradient_no_graph():
    x, _ = make((4,), 0.5)
    assert doubled(x).value.grad_fn is None
    x.value.requires_grad_()
    assert doubled(x).value.requires_grad
    with torch.no_grad():
        assert not doubled(x).value.requires_grad
