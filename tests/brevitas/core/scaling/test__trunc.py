"""How many steps of an accumulator make one step of the result."""

from __future__ import annotations

import pytest
import torch

import brevitas.nn as qnn
from brevitas.core.scaling import (
    ConstScaling,
    IntScaling,
    ParameterFromRuntimeStatsScaling,
    ParameterScaling,
    PowerOfTwoIntScaling,
    TruncMsbScaling,
    TruncScalingWrapper,
)
from brevitas.core.stats import AbsMax
from brevitas.quant import RoundTo8bit, ShiftRoundSaturateTo8bit, TruncTo8bit

X = torch.tensor([3.0, -5.0])


def bits(number: float) -> torch.Tensor:
    return torch.tensor(number)


@pytest.mark.parametrize("bits_in", [2.0, 8.0, 10.0, 32.0])
@pytest.mark.parametrize("bits_out", [1.0, 4.0, 8.0, 12.0])
def test_kept_bits_are_an_exact_power_of_two(bits_in, bits_out):
    for signed in (True, False):
        steps = TruncMsbScaling()(X, bits(bits_in), bits(bits_out), signed)
        assert steps.shape == () and steps.item() == 2.0 ** (bits_in - bits_out)


def test_learned_bit_widths_get_gradients():
    bits_in, bits_out = bits(10.0).requires_grad_(), bits(8.0).requires_grad_()
    TruncMsbScaling()(X, bits_in, bits_out, True).backward()
    # d 2 ** b / db = ln 2 * 2 ** b
    expected = torch.log(torch.tensor(2.0)) * 4
    torch.testing.assert_close(bits_in.grad, expected)
    torch.testing.assert_close(bits_out.grad, -expected)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("largest", [0.01, 100.0, 128.0, 200.0, 255.0, 256.0, 1000.0, 1e6])
@pytest.mark.parametrize("bits_in", [4.0, 8.0, 10.0, 16.0])
def test_wrapped_scaling_between_all_low_and_all_high_bits(signed, largest, bits_in):
    for int_scaling, threshold in (
        (PowerOfTwoIntScaling(), 128 if signed else 256),
        (IntScaling(narrow_range=False), 128 if signed else 255),
        (IntScaling(narrow_range=True), 127 if signed else 254),
    ):
        wrapper = TruncScalingWrapper(int_scaling, ConstScaling(largest))
        steps = wrapper(X, bits(bits_in), bits(8.0), signed)
        all_high = 2.0 ** (bits_in - 8)
        expected = min(max(largest / threshold, min(1.0, all_high)), max(1.0, all_high))
        assert steps.item() == pytest.approx(expected, rel=1e-6)


def test_the_sign_may_be_a_tensor():
    wrapper = TruncScalingWrapper(PowerOfTwoIntScaling(), ConstScaling(512.0))
    for signed in (True, False):
        given = wrapper(X, bits(12.0), bits(8.0), torch.tensor(signed))
        assert torch.equal(given, wrapper(X, bits(12.0), bits(8.0), signed))


@pytest.mark.parametrize(("start", "gradient"), [(0.01, 0.0), (300.0, 1 / 128), (1e6, 0.0)])
def test_gradient_of_the_scaling_inside_of_its_limits(start, gradient):
    scaling = ParameterScaling(start)
    wrapper = TruncScalingWrapper(PowerOfTwoIntScaling(), scaling)
    wrapper(X, bits(10.0), bits(8.0), True).backward()
    assert scaling.value.grad.item() == gradient


def test_statistics_are_those_of_the_integers():
    scaling = ParameterFromRuntimeStatsScaling(1, AbsMax())
    wrapper = TruncScalingWrapper(PowerOfTwoIntScaling(), scaling)
    steps = wrapper(torch.tensor([-320.0, 2.0]), bits(12.0), bits(8.0), True)
    assert steps.item() == 320 / 128 and scaling.value.item() == 320
    assert list(wrapper.state_dict()) == ["scaling_impl.value"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_more_steps_than_half_precision_holds(dtype):
    wide, narrow = (torch.tensor(number, dtype=dtype) for number in (32.0, 8.0))
    assert TruncMsbScaling()(X, wide, narrow, True).item() == 2.0**24
    wrapper = TruncScalingWrapper(PowerOfTwoIntScaling(), ConstScaling(2.0**25))
    assert wrapper(X, wide, narrow, True).item() == 2.0**18


@pytest.mark.parametrize("quantizer", [TruncTo8bit, RoundTo8bit, ShiftRoundSaturateTo8bit])
def test_a_wide_accumulator_of_a_model_in_half_precision(quantizer):
    act = qnn.QuantIdentity(bit_width=26, return_quant_tensor=True)
    pool = qnn.TruncAvgPool2d(2, trunc_quant=quantizer, return_quant_tensor=True)
    model = torch.nn.Sequential(act, pool).half()
    x = torch.full((1, 1, 4, 4), 20.0, dtype=torch.float16)
    for _ in range(2):
        y = model(x)
        torch.testing.assert_close(
            y.value, x[..., ::2, ::2], atol=float(y.scale.detach()), rtol=1e-2
        )
        assert y.scale.isfinite()
        model.eval()
