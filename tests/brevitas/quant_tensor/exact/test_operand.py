"""Tests of the integers that operands stand for."""

from __future__ import annotations

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from brevitas.ops.fake_quant import ROUNDING_MODES, to_integer
from brevitas.quant_tensor import IntQuantTensor
from brevitas.quant_tensor.exact._operand import known_zero_point, read_operand
from quant_tensors import make


@pytest.mark.parametrize("rounding", ROUNDING_MODES)
@given(
    st.integers(0, 1000),
    st.integers(2, 24),
    st.booleans(),
    st.integers(-20, 20).map(float),
    st.floats(1e-3, 1e3),
)
def test_integers_of_a_valid_tensor_are_its_own(rounding, seed, bits, signed, zero_point, scale):
    x, _ = make((20,), torch.tensor(scale), zero_point, bits, signed, seed=seed)
    if not x.is_valid:
        return  # 24 bits and a zero point are more than a float32 value holds
    operand = read_operand(x, "add", rounding)
    assert torch.equal(operand.integers.long(), x.int().long())
    assert torch.equal(operand.steps, operand.integers - zero_point)


@pytest.mark.parametrize("rounding", ROUNDING_MODES)
@pytest.mark.parametrize("bit_width", [4, torch.tensor([[4.0], [3.0]])], ids=["one", "channels"])
def test_integers_of_any_value_are_those_of_a_quantizer(rounding, bit_width):
    # Quarters: far from integers, and from where rounding jumps by the rounding of a float.
    value = (torch.arange(-40, 40).reshape(2, 40) + 0.5) / 2
    x = IntQuantTensor(value, 0.5, 0.5, bit_width, True, False)
    bound = 2 ** (torch.as_tensor(bit_width) - 1.0)
    expected = to_integer(value, x.scale, x.zero_point, -bound, bound - 1, rounding)
    operand = read_operand(x, "add", rounding)
    assert torch.equal(operand.integers, expected.double())
    assert torch.equal(operand.real(), ((expected - 0.5) * 0.5))


def test_ties_are_those_of_the_working_precision():
    """0.2 in float32 is above 0.2, so that 1 / 0.2 + 2.5 is below 7.5 in float64 alone."""
    x = IntQuantTensor(torch.tensor([1.0, 3.0]), 0.2, 2.5, 6, False, False)
    assert read_operand(x, "add", "ROUND").integers.tolist() == [8, 18]
    exact = 1 / numpy.float64(numpy.float32(0.2)) + 2.5
    assert numpy.rint(exact) == 7


def test_step_range_takes_zero_points_into_account():
    x, _ = make((4, 2), 0.5, 3.0, 8, False)
    zero_point = torch.tensor([3.0, -2.0])
    assert tuple(read_operand(x, "mul", "ROUND").step_range) == (-3, 252, True)
    channels = x.set(zero_point=zero_point)
    assert tuple(read_operand(channels, "mul", "ROUND").step_range) == (-3, 257, True)
    below = read_operand(x.set(zero_point=torch.tensor(-2.0)), "mul", "ROUND")
    assert tuple(below.step_range) == (2, 257, False)


def test_known_zero_point():
    x, _ = make((4,), 0.5)
    assert known_zero_point(x) == 0.0 and isinstance(known_zero_point(x), float)
    other = x.set(zero_point=torch.tensor(0.0))
    assert known_zero_point(other) is other.zero_point


def test_a_device_without_double_precision_is_refused(monkeypatch):
    x, _ = make((4,), 0.5)
    module = "brevitas.quant_tensor.exact._operand.SINGLE_PRECISION_DEVICES"
    monkeypatch.setattr(module, ("cpu",))
    with pytest.raises(RuntimeError, match="exact.add on cpu: expected a device with float64"):
        read_operand(x, "add", "ROUND")
