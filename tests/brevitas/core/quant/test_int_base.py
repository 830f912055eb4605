"""Rounding, clamping and the two ways of running them."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from brevitas.core.function_wrapper import FloorSte, OverTensorView, RoundSte, TensorClampSte
from brevitas.core.quant import DecoupledIntQuant, IntQuant

SCALE, ZERO_POINT, BIT_WIDTH = torch.tensor(0.3), torch.tensor(2.0), torch.tensor(4.0)


def _module_by_module(int_quant: IntQuant) -> IntQuant:
    int_quant.float_to_int_impl.register_forward_hook(lambda *arguments: None)
    return int_quant


def _limits(signed: bool, narrow_range: bool, bits: int) -> tuple[int, int]:
    if signed:
        return -(2 ** (bits - 1)) + narrow_range, 2 ** (bits - 1) - 1
    return 0, 2**bits - 1 - narrow_range


@pytest.mark.parametrize(("signed", "narrow"), list(product((False, True), repeat=2)))
@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_values_and_limits(signed: bool, narrow: bool, bits: int) -> None:
    lower, upper = _limits(signed, narrow, bits)
    x = torch.linspace(-50.0, 50.0, 301)
    bit_width = torch.tensor(float(bits))
    expected = ((x / SCALE + ZERO_POINT).round().clamp(lower, upper) - ZERO_POINT) * SCALE
    for int_quant in (IntQuant(narrow, signed), _module_by_module(IntQuant(narrow, signed))):
        assert int_quant.min_int(bit_width) == lower and int_quant.max_int(bit_width) == upper
        assert torch.equal(int_quant(SCALE, ZERO_POINT, bit_width, x), expected)
        integer = int_quant.to_int(SCALE, ZERO_POINT, bit_width, x)
        assert torch.equal((integer - ZERO_POINT) * SCALE, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("clamp", [None, TensorClampSte()])
def test_both_ways_agree_to_the_bit(dtype: torch.dtype, clamp: nn.Module | None) -> None:
    x = (torch.randn(500) * 3).to(dtype)
    fused = IntQuant(False, True, tensor_clamp_impl=clamp)
    separate = _module_by_module(IntQuant(False, True, tensor_clamp_impl=clamp))
    values = [m(SCALE, ZERO_POINT, BIT_WIDTH, x) for m in (fused, separate)]
    assert values[0].dtype is dtype and torch.equal(*values)


class _Doubling(IntQuant):
    """Integers by a rule of its own."""

    def to_int(self, scale: Tensor, zero_point: Tensor, bit_width: Tensor, x: Tensor) -> Tensor:
        return 2 * super().to_int(scale, zero_point, bit_width, x)


def test_a_derived_class_runs_by_its_own_rule() -> None:
    int_quant, zero = _Doubling(False, True), torch.tensor(0.0)
    assert int_quant(torch.tensor(1.0), zero, BIT_WIDTH, torch.tensor([3.0])).item() == 6.0


def test_delay_passes_the_real_value() -> None:
    int_quant, x = IntQuant(False, True, quant_delay_steps=2), torch.randn(5)
    quantized = IntQuant(False, True)(SCALE, ZERO_POINT, BIT_WIDTH, x)
    outputs = [int_quant(SCALE, ZERO_POINT, BIT_WIDTH, x) for _ in range(3)]
    assert torch.equal(outputs[0], x) and torch.equal(outputs[1], x)
    assert torch.equal(outputs[2], quantized)


def test_view_and_rounding_are_used() -> None:
    int_quant = IntQuant(False, True, OverTensorView(), FloorSte())
    y = int_quant(torch.tensor(1.0), torch.tensor(0.0), BIT_WIDTH, torch.full((2, 3), 1.7))
    assert y.tolist() == [1.0] * 6


def test_replaced_parts_take_effect_at_once() -> None:
    int_quant, one, zero = IntQuant(False, True), torch.tensor(1.0), torch.tensor(0.0)
    x = torch.tensor([1.7])
    assert int_quant(one, zero, BIT_WIDTH, x).item() == 2.0
    int_quant.float_to_int_impl = FloorSte()
    assert int_quant(one, zero, BIT_WIDTH, x).item() == 1.0
    int_quant.float_to_int_impl = RoundSte()
    assert int_quant(one, zero, BIT_WIDTH, x).item() == 2.0
    int_quant.signed = False
    assert int_quant(one, zero, BIT_WIDTH, -x).item() == 0.0


@pytest.mark.parametrize(("signed", "narrow"), list(product((False, True), repeat=2)))
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_integers_of_one_grid_on_another(signed: bool, narrow: bool, dtype: torch.dtype) -> None:
    lower, upper = _limits(signed, narrow, 4)
    x = torch.linspace(-5.0, 5.0, 301).to(dtype)
    grid, output = (SCALE, torch.tensor(1.25)), (torch.tensor(0.7), ZERO_POINT)
    wide = x.float() if dtype is torch.float16 else x
    integer = (wide / grid[0] + grid[1]).round().clamp(lower, upper)
    expected = ((integer - output[1]) * output[0]).to(dtype)
    for int_quant in (
        DecoupledIntQuant(narrow, signed),
        _module_by_module(DecoupledIntQuant(narrow, signed)),
    ):
        assert torch.equal(int_quant(*grid, *output, BIT_WIDTH, x), expected)
        assert torch.equal(int_quant.to_int(*grid, BIT_WIDTH, wide), integer)


def test_two_equal_grids_are_one() -> None:
    x, grid = torch.randn(200) * 3, (SCALE, ZERO_POINT)
    expected = IntQuant(False, True)(*grid, BIT_WIDTH, x)
    assert torch.equal(DecoupledIntQuant(False, True)(*grid, *grid, BIT_WIDTH, x), expected)
