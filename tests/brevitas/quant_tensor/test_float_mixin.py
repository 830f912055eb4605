"""Tests of the minifloats of a tensor: values, range, validity, messages."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from brevitas.quant_tensor import GroupwiseFloatQuantTensor
from quant_tensors import FORMATS, make_float, make_groups, numbers_of

# Formats that PyTorch has, too.
OF_TORCH = {
    "e4m3": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
    "e4m3 fnuz": torch.float8_e4m3fnuz,
}

formats = pytest.mark.parametrize("name", FORMATS)


def with_values(name, value, scale=1.0, **fields):
    x, _ = make_float((1,), scale, name)
    return x.set(value=torch.as_tensor(value), **fields)


@formats
@pytest.mark.parametrize("scale", [1.0, 0.05, 3e-5, 700.0])
def test_all_numbers_of_a_format_are_valid(name, scale):
    numbers = numbers_of(name)
    numbers = torch.cat([-numbers, numbers])
    x = with_values(name, (numbers * scale).float(), scale)
    assert x.is_valid is True
    assert torch.equal(x.minifloat().double(), numbers)


@formats
def test_nothing_between_two_numbers_is_valid(name):
    numbers = numbers_of(name)
    middles = (numbers[1:] + numbers[:-1]) / 2
    for value in (*middles, *-middles, numbers[-1] * 1.2):
        assert with_values(name, value.float().reshape(1)).is_valid is False, value


@formats
def test_what_is_left_of_rounding_counts_as_the_number(name):
    numbers = numbers_of(name)[1:]
    step = torch.diff(numbers_of(name))
    for shift, is_valid in ((0.19, True), (0.21, False)):
        # Below the step above a number, except where that step is longer.
        moved = numbers[:-1] + shift * step[1:]
        valid = [with_values(name, v.reshape(1)).is_valid for v in moved.double()]
        # In float64 a tenth of a step is accepted.
        assert all(v is (shift < 0.1) for v in valid)
        valid = [with_values(name, v.reshape(1)).is_valid for v in moved.float()]
        assert all(v is is_valid for v in valid)


@pytest.mark.parametrize(("name", "dtype"), OF_TORCH.items())
def test_the_codes_of_torch_are_the_numbers(name, dtype):
    codes = torch.arange(256, dtype=torch.uint8).view(dtype).float()
    finite = codes[codes.isfinite()]
    expected = numbers_of(name)
    assert torch.equal(finite.abs().unique().double(), expected)
    assert with_values(name, finite).is_valid
    for special in (float("nan"), float("inf"), -float("inf")):
        has_code = (
            bool((codes == special).any()) if special == special else bool(codes.isnan().any())
        )
        if name == "e4m3 fnuz":  # its one NaN is the code of -0, no mantissa of the last exponent
            has_code = False
        x = with_values(name, [1.0, special])
        assert x.is_valid is has_code, special
        if has_code:
            torch.testing.assert_close(x.minifloat(), x.value, equal_nan=True, rtol=0, atol=0)


@formats
@given(st.integers(0, 1000), st.floats(1e-6, 1e3))
def test_minifloats_are_exact_for_any_scale(name, seed, scale):
    scale = torch.tensor(scale, dtype=torch.float32)
    x, numbers = make_float((30,), scale, name, seed=seed)
    assert x.is_valid is True
    assert torch.equal(x.minifloat().double(), numbers)


def test_scales_of_channels():
    scale = torch.rand(4, 1, generator=torch.Generator().manual_seed(0)) + 0.1
    x, numbers = make_float((4, 9), scale)
    assert torch.equal(x.minifloat().double(), numbers)
    assert not x.set(scale=scale.flip(0)).is_valid


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_values_of_another_dtype(dtype):
    x, numbers = make_float((50,), 0.25)
    y = x.to(dtype)
    assert y.is_valid and torch.equal(y.minifloat().double(), numbers)
    assert y.minifloat().dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    # Rounded after the scale: 8 or 11 bits are enough for the 4 of a number.
    z = make_float((50,), 0.05)[0].to(dtype)
    assert torch.equal(z.minifloat().double(), make_float((50,), 0.05)[1])
    # Half a step is more than the precision of the value can explain.
    assert not y.set(value=torch.tensor([1.0625], dtype=dtype) * 0.25).is_valid


def test_unsigned_tensors_have_no_negative_numbers():
    assert with_values("e4m3", [1.0, 0.0, -0.0], signed=False).is_valid
    assert not with_values("e4m3", [1.0, -1.0], signed=False).is_valid


def test_validity_does_not_depend_on_how_values_saturate():
    assert with_values("e4m3", [448.0], saturating=False).is_valid
    assert not with_values("e4m3", [480.0], saturating=True).is_valid
    assert with_values("e4m3", [480.0], nan_values=None).is_valid


def test_integers_are_significands():
    x = with_values("e4m3", [1.0, -6.0, 0.001953125, 448.0, 0.0])
    assert x.int().tolist() == [8, -12, 1, 14, 0]
    assert torch.equal(x._pre_round_float_value, x.int())
    groups, numbers = make_groups(GroupwiseFloatQuantTensor, (2, 6))
    assert groups.int().shape == (2, 6) and groups.int().abs().max() < 16
    assert torch.equal(groups.minifloat().double(), numbers)


def test_invalid_tensors_say_why():
    with pytest.raises(RuntimeError) as caught:
        with_values("e4m3", [449.0, 480.0]).minifloat()
    headline, details = str(caught.value).splitlines()
    assert headline == "FloatQuantTensor not valid."
    assert "4 exponent and 3 mantissa bits" in details and "from -448 to 448" in details
    assert "Requantize the value" in details
    with pytest.raises(ValueError, match="float_datatype=False: minifloats are given in float32"):
        with_values("e4m3", [1.0]).minifloat(float_datatype=False)


def test_smallest_normal_number_of_the_scale():
    assert with_values("e4m3", [1.0]).eps == torch.finfo(torch.float32).tiny


CHECKS = {
    "check_scaling_factors_same": ({"scale": 0.1}, "Scaling factors are different"),
    "check_zero_points_same": ({"zero_point": 1.0}, "Zero points are different"),
    "check_bit_width_same": ({"mantissa_bit_width": 2}, "Bit widths are different"),
    "check_exponent_bias": ({"exponent_bias": 8}, "Exponent biases are different"),
    "check_inf_nan_same": ({"nan_values": None}, "nan_values=\\('111',\\) and nan_values=None"),
    "check_sign_same": ({"signed": False}, "Signs are different"),
}


@pytest.mark.parametrize("check", CHECKS)
def test_checks(check):
    x, _ = make_float((3,))
    change, message = CHECKS[check]
    assert getattr(x, check)(x.set()) is None
    with pytest.raises(RuntimeError, match=message + r"[\s\S]*Requantize both operands"):
        getattr(x, check)(x.set(**change))
    in_training = x.set(**change, training=True)
    if check in ("check_scaling_factors_same", "check_zero_points_same"):
        assert getattr(x, check)(in_training) is True
    else:
        with pytest.raises(RuntimeError, match=message):
            getattr(x, check)(in_training)


def test_bits_of_the_exponent_are_checked_too():
    x, _ = make_float((3,))
    with pytest.raises(RuntimeError, match="Bit widths are different"):
        x.check_bit_width_same(x.set(exponent_bit_width=5))
