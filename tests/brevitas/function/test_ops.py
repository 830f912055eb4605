"""Tests of the pure elementwise maths."""

from __future__ import annotations

import doctest

import pytest
import torch

from brevitas.function import ops


def test_doctests():
    assert doctest.testmod(ops, extraglobs={"torch": torch}).failed == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("narrow_range", [False, True])
@pytest.mark.parametrize("signed", [False, True])
def test_integer_range_is_exact(signed, narrow_range, dtype):
    for bits in range(1, 25):
        bit_width = torch.tensor(float(bits), dtype=dtype)
        low = -(2 ** (bits - 1)) + narrow_range if signed else 0
        high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - narrow_range
        assert ops.max_int(signed, narrow_range, bit_width).item() == high
        assert ops.min_int(signed, narrow_range, bit_width).item() == low
        assert ops.max_int(signed, narrow_range, float(bits)) == high
        assert ops.min_int(signed, narrow_range, float(bits)) == low


def test_half_bit_width_does_not_overflow():
    bit_width = torch.tensor(32.0, dtype=torch.float16)
    assert ops.max_int(False, False, bit_width).dtype == torch.float32
    assert ops.max_int(False, False, bit_width).item() == 2.0**32  # 2**32 - 1 needs 32 bits


def test_flags_in_tensors_choose_elementwise():
    flags = torch.tensor([True, False])
    bit_width = torch.tensor([4.0, 4.0])
    assert ops.max_int(flags, False, bit_width).tolist() == [7.0, 15.0]
    assert ops.min_int(flags, False, bit_width).tolist() == [-8.0, 0.0]
    assert ops.min_int(True, flags, bit_width).tolist() == [-7.0, -8.0]
    assert ops.max_int(False, flags, bit_width).tolist() == [14.0, 15.0]


@pytest.mark.parametrize("function", [ops.max_int, ops.min_int])
@pytest.mark.parametrize("signed", [False, True])
def test_range_gradient_in_bit_width(function, signed):
    bit_width = torch.tensor([3.0, 8.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda b: function(signed, True, b), (bit_width,))


def test_range_compiles_without_graph_break():
    compiled = torch.compile(
        lambda b: ops.max_int(True, False, b) - ops.min_int(torch.tensor(True), True, b),
        backend="eager",
        fullgraph=True,
    )
    assert compiled(torch.tensor(8.0)).item() == 127 + 127


def test_dpu_round_on_halves():
    halves = torch.arange(-8, 8) + 0.5
    expected = [float(int(h + 0.5)) if h < 0 else float(round(h)) for h in halves.tolist()]
    assert ops.dpu_round(halves).tolist() == expected


def test_rounding_of_non_halves_is_nearest_or_towards_zero():
    x = torch.arange(-33, 34) / 10 + 0.03  # no halves
    torch.testing.assert_close(ops.dpu_round(x), torch.round(x), rtol=0, atol=0)
    torch.testing.assert_close(ops.round_to_zero(x), x.sign() * x.abs().floor(), rtol=0, atol=0)


def test_binary_sign_has_no_zero():
    x = torch.tensor([-1.0, -0.0, 0.0, 2.0, float("nan")])
    sign = ops.binary_sign(x)
    assert sign[:4].tolist() == [-1.0, 1.0, 1.0, 1.0] and sign[4].isnan()
    smallest = torch.tensor([-5e-324, 5e-324], dtype=torch.float64)
    assert ops.binary_sign(smallest).tolist() == [-1.0, 1.0]
    assert ops.binary_sign(torch.tensor([-3, 0, 2])).tolist() == [-1, 1, 1]


def test_tensor_clamp_crossing_bounds_and_nan():
    x = torch.tensor([0.0, float("nan"), float("inf")])
    crossed = ops.tensor_clamp(x, torch.tensor(1.0), torch.tensor(-1.0))
    assert crossed[0] == -1 and crossed[1].isnan() and crossed[2] == -1
    y = torch.tensor([1.0, 5.0])
    assert ops.tensor_clamp_(y, torch.tensor(0.0), torch.tensor(2.0)) is y
    assert y.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("exponent_bits", "mantissa", "bias", "largest"),
    [(4.0, 1.75, 7.0, 448.0), (2.0, 1.75, 1.0, 7.0), (3.0, 1.75, 3.0, 28.0), (2.0, 1.5, 1.0, 6.0)],
)
def test_max_float_of_ocp_formats(exponent_bits, mantissa, bias, largest):
    arguments = (torch.tensor(v) for v in (exponent_bits, mantissa, bias))
    assert ops.max_float(*arguments).item() == largest


def test_upper_bound_on_l1_norm_is_tight():
    bound = ops.get_upper_bound_on_l1_norm(torch.tensor(16.0), torch.tensor(8.0), False)
    assert bound.item() * 2**8 == 2**15 - 1
    signed_bound = ops.get_upper_bound_on_l1_norm(torch.tensor(16.0), torch.tensor(8.0), True)
    assert signed_bound.item() * 2**7 == 2**15 - 1
