"""Integers and their grid."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from brevitas.export.common.integers import (
    Integers,
    accumulator_bias,
    needs_input,
    needs_output,
)
from brevitas.export.common.spec import ExportError


def _grid(scale: float, zero_point: int, dtype: torch.dtype) -> Integers:
    zero = torch.tensor(zero_point, dtype=dtype)
    return Integers.full_range("x", torch.tensor(scale), zero, None, "quant")


@given(st.integers(-128, 127), st.floats(0.01, 10), st.floats(-500, 500))
def test_a_move_to_the_other_dtype_keeps_real_values(zero: int, scale: float, x: float) -> None:
    grid = _grid(scale, zero, torch.int8)
    moved = grid.moved_to(torch.uint8)
    assert moved.integer_of(x) == grid.integer_of(x) + 128
    assert moved.shift == 128
    assert moved.has_grid_of(grid) and grid.has_grid_of(moved)
    assert torch.equal(moved.moved_to(torch.int8).zero_point, grid.zero_point)


def test_constants_move_too() -> None:
    data = torch.tensor([[-128, 127]], dtype=torch.int8)
    scale, zero_point = torch.tensor([0.5, 2.0]), torch.tensor([0, 3], dtype=torch.int8)
    grid = Integers.full_range("w", scale, zero_point, 1, "w", data)
    moved = grid.moved_to(torch.uint8)
    assert moved.data is not None
    assert moved.data.tolist() == [[0, 255]]
    assert torch.equal(moved.real(), grid.real())
    assert torch.equal(grid.real(), torch.tensor([[-64.0, 248.0]]))
    assert torch.equal(grid.transposed().real(), grid.real().t())


def test_other_grids_differ() -> None:
    grid = _grid(0.5, 0, torch.int8)
    assert not grid.has_grid_of(_grid(0.25, 0, torch.int8))
    # The same integer, but another place in the range: saturation differs.
    assert not grid.has_grid_of(_grid(0.5, 0, torch.uint8))


def test_zeros_around_values_are_among_those_that_occur() -> None:
    limited = replace(_grid(0.5, 10, torch.uint8), low=20, high=30)
    assert (limited.padded().low, limited.padded().high) == (10, 30)
    limited = replace(_grid(0.5, 40, torch.uint8), low=20, high=30)
    assert (limited.padded().low, limited.padded().high) == (20, 40)


def test_limits_are_exact_on_the_grid_and_beyond_it() -> None:
    grid = _grid(0.5, 10, torch.uint8)
    assert grid.exact_integer_of(0.0) == 10
    assert grid.exact_integer_of(math.inf) == 255
    assert grid.exact_integer_of(-math.inf) == 0
    assert grid.exact_integer_of(1000.0) == 255
    assert grid.exact_integer_of(0.7) is None


def test_bias_is_rounded_to_the_accumulator() -> None:
    bias, scale = torch.tensor([0.3, -0.3]), torch.tensor([0.1, 0.2])
    integers = accumulator_bias(bias, scale, torch.tensor(1.0), "fc")
    assert integers.dtype == torch.int32
    assert integers.tolist() == [3, -2] or integers.tolist() == [3, -1]


def test_bias_that_does_not_fit_names_the_layer() -> None:
    bias = torch.tensor([1.0])
    with pytest.raises(ExportError, match="32 bits.*Layer: fc"):
        accumulator_bias(bias, torch.tensor(1e-12), torch.tensor(1.0), "fc")
    with pytest.raises(ExportError, match="bias_quant=Int32Bias.*Layer: fc"):
        accumulator_bias(bias, torch.tensor(4.0), torch.tensor(0.5), "fc")


def test_errors_name_layer_reader_and_remedy() -> None:
    assert "Layer: fc" in str(needs_input("fc"))
    message = str(needs_output("fc", "Add", "export_onnx_qcdq"))
    assert "Add" in message and "export_onnx_qcdq" in message and "output_quant" in message
    assert "leaves the model" in str(needs_output("fc", "", "export_onnx_qcdq"))
