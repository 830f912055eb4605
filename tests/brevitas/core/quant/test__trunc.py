"""Truncation equals integer arithmetic, for every rounding, sign, range and meaning."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from brevitas.core.bit_width import BitWidthConst, BitWidthParameter
from brevitas.core.function_wrapper import (
    CeilSte,
    DPURoundSte,
    FloorSte,
    RoundSte,
    RoundToZeroSte,
)
from brevitas.core.quant import TruncIntQuant
from brevitas.core.scaling import (
    ConstScaling,
    PowerOfTwoIntScaling,
    TruncMsbScaling,
    TruncScalingWrapper,
)
from integer_shift import SHIFTS, limits, truncated

ROUNDING: dict[str, type[nn.Module]] = {
    "ROUND": RoundSte,
    "FLOOR": FloorSte,
    "CEIL": CeilSte,
    "ROUND_TO_ZERO": RoundToZeroSte,
    "DPU": DPURoundSte,
}
SCALE = torch.tensor(0.37)


def every_integer(bits: int, signed: bool) -> Tensor:
    low, high = limits(bits, signed)
    return torch.arange(low, high + 1)


def run(
    trunc: nn.Module, q: Tensor, bits: int, signed: bool, zero_point: float = 0.0
) -> tuple[Tensor, ...]:
    """Truncate integers, given as real values that are off by the roundings of a product."""
    z = torch.tensor(zero_point)
    return trunc((q - zero_point).float() * SCALE, SCALE, z, torch.tensor(float(bits)), signed)


@pytest.mark.parametrize("mode", ROUNDING)
@pytest.mark.parametrize(("bits_in", "bits_out"), [(10, 8), (8, 8), (12, 4), (9, 2), (4, 6)])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("narrow", [True, False])
def test_every_integer(mode, bits_in, bits_out, signed, narrow):
    q = every_integer(bits_in, signed)
    trunc = TruncIntQuant(ROUNDING[mode](), BitWidthConst(bits_out), narrow_range=narrow)
    value, scale, zero_point, bit_width = run(trunc, q, bits_in, signed)
    steps = 2.0 ** (bits_in - bits_out)
    assert scale.item() == SCALE.item() * steps and zero_point.item() == 0.0
    assert bit_width.item() == bits_out
    expected = truncated(q, bits_in, bits_out, mode, signed, narrow)
    assert torch.equal(torch.round(value / scale).long(), expected)
    assert torch.equal(value, expected * scale)


@pytest.mark.parametrize("mode", ROUNDING)
@pytest.mark.parametrize("signed", [True, False])
def test_the_older_meaning_keeps_the_scale(mode, signed):
    """As version 1 of QONNX's operator, but for the integer that rounding puts out of range."""
    q = every_integer(10, signed)
    newer = TruncIntQuant(ROUNDING[mode](), BitWidthConst(8))
    older = TruncIntQuant(ROUNDING[mode](), BitWidthConst(8), keeps_scale=True)
    value, scale, _, bit_width = run(older, q, 10, signed)
    assert torch.equal(scale, SCALE) and bit_width.item() == 8
    expected = truncated(q, 10, 8, mode, signed)
    assert torch.equal(value, expected * scale)
    # The same integers, read at a scale that is four times finer.
    assert torch.equal(value * 4, run(newer, q, 10, signed)[0])


@pytest.mark.parametrize("mode", ["ROUND", "FLOOR"])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("keeps_scale", [True, False])
def test_a_zero_point(mode, signed, keeps_scale):
    """The integers are shifted with their zero point in them."""
    q, zero_point = every_integer(10, signed), 12.0
    trunc = TruncIntQuant(ROUNDING[mode](), BitWidthConst(8), keeps_scale=keeps_scale)
    value, scale, shifted_zero_point, _ = run(trunc, q, 10, signed, zero_point)
    assert shifted_zero_point.item() == (12.0 if keeps_scale else 3.0)
    integers = torch.round(value / scale + shifted_zero_point).long()
    assert torch.equal(integers, truncated(q, 10, 8, mode, signed))


@given(st.integers(2, 16), st.integers(1, 16), st.sampled_from(sorted(ROUNDING)), st.booleans())
def test_the_result_is_in_range_and_near(bits_in, bits_out, mode, signed):
    generator = torch.Generator().manual_seed(bits_in * 17 + bits_out)
    low, high = limits(bits_in, signed)
    q = torch.randint(low, high + 1, (64,), generator=generator)
    q[:2] = torch.tensor([low, high])
    trunc = TruncIntQuant(ROUNDING[mode](), BitWidthConst(bits_out))
    value, scale, _, _ = run(trunc, q, bits_in, signed)
    integers = torch.round(value / scale)
    assert integers.min() >= limits(bits_out, signed)[0]
    assert integers.max() <= limits(bits_out, signed)[1]
    # Rounding moves by less than one step, by half of one to the nearest; saturation only where
    # the rounded integer is the one past the largest.
    limit = scale * (1.0 if mode not in ("ROUND", "DPU") else 0.5)
    is_largest = q >= high - 2 ** max(bits_in - bits_out, 0)
    error = (value - q * SCALE).abs()
    # Two roundings of a product of up to 2 ** 16 steps.
    slack = 2 * torch.finfo(torch.float32).eps * 2**16 * SCALE
    assert bool(((error <= limit + slack) | (is_largest & (error <= scale + slack))).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype):
    q = torch.arange(-8, 8)
    trunc = TruncIntQuant(FloorSte(), BitWidthConst(2))
    # Small integers and a power of two are exact in every one of them.
    fields = [torch.tensor(number) for number in (0.5, 0.0, 4.0)]
    value, scale, *_ = trunc((q * 0.5).to(dtype), *fields, True)
    assert value.dtype == dtype and scale.item() == 2.0
    assert torch.equal((value / 2).long(), q >> 2)


def test_a_scale_per_channel():
    q = torch.stack([every_integer(6, True)] * 2)
    scale = torch.tensor([[0.1], [0.3]])
    trunc = TruncIntQuant(RoundSte(), BitWidthConst(4))
    value, scale_out, _, _ = trunc(q * scale, scale, torch.tensor(0.0), torch.tensor(6.0), True)
    assert torch.equal(scale_out, scale * 4)
    assert torch.equal(torch.round(value / scale_out).long(), truncated(q, 6, 4, "ROUND", True))


def test_gradients():
    """Straight through where the result is not saturated, as a formula in plain PyTorch has it."""
    q, steps = every_integer(10, True), 4.0
    leaves = [(q * SCALE), SCALE.clone(), torch.tensor(3.0)]
    for mode in ("ROUND", "FLOOR", "CEIL"):
        ours = [leaf.clone().requires_grad_() for leaf in leaves]
        trunc = TruncIntQuant(ROUNDING[mode](), BitWidthConst(8), narrow_range=True)
        value, scale, zero_point, _ = trunc(*ours, torch.tensor(10.0), True)
        (value.sum() + 3 * scale + 5 * zero_point).backward()

        theirs = [leaf.clone().requires_grad_() for leaf in leaves]
        x, s, z = theirs
        exact = x / s + z
        integer = exact + (torch.round(exact) - exact).detach()
        rounding = {"ROUND": torch.round, "FLOOR": torch.floor, "CEIL": torch.ceil}[mode]
        rounded = integer / steps + (rounding(integer / steps) - integer / steps).detach()
        kept = rounded.clamp(-127.0, 127.0)
        (((kept - z / steps) * (s * steps)).sum() + 3 * s * steps + 5 * z / steps).backward()
        assert torch.equal(ours[0].grad, theirs[0].grad)
        # Sums over all elements of terms up to the largest integer, in another order.
        slack = torch.finfo(torch.float32).eps * q.numel() * 512
        for mine, other in zip(ours[1:], theirs[1:], strict=True):
            torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=slack)


def test_a_learned_bit_width_of_the_result():
    trunc = TruncIntQuant(RoundSte(), BitWidthParameter(8))
    value, scale, _, bit_width = run(trunc, every_integer(10, True), 10, True)
    bit_width.backward(retain_graph=True)
    offset = trunc.msb_clamp_bit_width_impl.bit_width_offset
    assert offset.grad.item() == 1.0
    offset.grad = None
    scale.backward()
    # One bit more halves the scale: d (s * 2 ** (10 - b)) / db = -ln 2 * s * 4.
    torch.testing.assert_close(offset.grad, -torch.log(torch.tensor(2.0)) * SCALE * 4)
    assert list(trunc.state_dict()) == ["msb_clamp_bit_width_impl.bit_width_offset"]


def test_saturation_below_the_most_significant_bits():
    scaling = TruncScalingWrapper(PowerOfTwoIntScaling(), ConstScaling(256.0))
    trunc = TruncIntQuant(RoundSte(), BitWidthConst(8), scaling)
    q = torch.tensor([-512, -256, -3, 0, 1, 255, 511])
    value, scale, _, _ = run(trunc, q, 10, True)
    assert torch.equal(scale, SCALE * 2)
    assert torch.equal(torch.round(value / scale).long(), SHIFTS["ROUND"](q, 1).clamp(-128, 127))


def test_a_delay_passes_the_accumulator_on():
    trunc = TruncIntQuant(FloorSte(), BitWidthConst(4), quant_delay_steps=1)
    q = every_integer(6, True)
    assert torch.equal(run(trunc, q, 6, True)[0], q * SCALE)
    assert not torch.equal(run(trunc, q, 6, True)[0], q * SCALE)


def test_limits_and_copies():
    trunc = TruncIntQuant(FloorSte(), BitWidthConst(4), narrow_range=True)
    bits = torch.tensor(4.0)
    assert (trunc.min_int(bits, True), trunc.max_int(bits, True)) == (-7, 7)
    assert (trunc.min_int(bits, False), trunc.max_int(bits, False)) == (0, 14)
    assert trunc.min_int(bits, torch.tensor(True)) == -7
    for other in (copy.deepcopy(trunc), pickle.loads(pickle.dumps(trunc))):
        q = every_integer(6, True)
        assert torch.equal(run(other, q, 6, True)[0], run(trunc, q, 6, True)[0])
    assert type(TruncIntQuant(FloorSte(), BitWidthConst(4)).trunc_scaling_impl) is TruncMsbScaling


def test_parts_are_checked():
    with pytest.raises(TypeError, match="float_to_int_impl=None: expected a torch.nn.Module"):
        TruncIntQuant(None, BitWidthConst(4))
    with pytest.raises(TypeError, match="bit_width_impl=8: expected a torch.nn.Module"):
        TruncIntQuant(RoundSte(), 8)
