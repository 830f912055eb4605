"""Packed layers."""

from __future__ import annotations

import pytest
import torch

from brevitas.export.common.integers import Integers
from brevitas.export.torch.qoperator.layers import (
    Geometry,
    may_overflow,
    quantized_layer,
    quantized_weight,
)

pytestmark = pytest.mark.filterwarnings(
    # 2026-11: PyTorch deprecates the tensors that these layers work on.
    "ignore:.*quantized tensor creation functions:UserWarning"
)


def _weight(data: torch.Tensor, axis: int | None = None) -> Integers:
    count = () if axis is None else (data.shape[axis],)
    scale = torch.full(count, 0.5)
    return Integers.full_range("w", scale, torch.zeros(count, dtype=data.dtype), axis, "w", data)


def _grid(scale: float, zero_point: int) -> Integers:
    zero = torch.tensor(zero_point, dtype=torch.uint8)
    return Integers.full_range("y", torch.tensor(scale), zero, None, "y")


@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
def test_weights_keep_their_real_values(axis: int | None, dtype: torch.dtype) -> None:
    weight = _weight(torch.tensor([[0, 1, 127], [3, 4, 5]], dtype=dtype), axis)
    packed = quantized_weight(weight)
    assert packed.dtype == torch.qint8
    assert torch.equal(packed.dequantize(), weight.real())


def test_a_layer_is_one_product_and_one_rounding() -> None:
    weight = _weight(torch.tensor([[1, -2]], dtype=torch.int8))
    layer = quantized_layer(weight, torch.tensor([0.25]), None, _grid(1.0, 10))
    x = torch.quantize_per_tensor(torch.tensor([[4.0, -3.0]]), 0.5, 100, torch.quint8)
    # 0.5 * 4 + 1 * 3 + 0.25 = 5.25, which rounds to 5 steps.
    assert layer(x).int_repr().tolist() == [[15]]
    assert layer(x).dequantize().tolist() == [[5.0]]


def test_a_convolution_pads_with_real_zeros() -> None:
    weight = _weight(torch.ones(1, 1, 3, dtype=torch.int8))
    geometry = Geometry([1], [1], [1], 1)
    layer = quantized_layer(weight, None, geometry, _grid(0.5, 0))
    x = torch.quantize_per_tensor(torch.ones(1, 1, 3), 0.5, 100, torch.quint8)
    assert layer(x).dequantize().tolist() == [[[1.0, 1.5, 1.0]]]


def test_overflow_depends_on_both_ranges() -> None:
    full = _weight(torch.tensor([[127, -127]], dtype=torch.int8))
    short = _weight(torch.tensor([[63, -63]], dtype=torch.int8))
    unsigned = _weight(torch.tensor([[0, 127]], dtype=torch.uint8))
    source = _grid(1.0, 0)
    assert may_overflow(source, full)
    assert not may_overflow(source, short)
    # Moved to -64..63.
    assert not may_overflow(source, unsigned)
