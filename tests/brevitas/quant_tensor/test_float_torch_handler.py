"""Tests of the torch functions that keep minifloats."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from brevitas.quant_tensor import FLOAT_QUANT_TENSOR_FN_HANDLER, FloatQuantTensor
from brevitas.quant_tensor.float_torch_handler import implements_float_qt
from quant_tensors import make_float


def test_rows_of_a_table_keep_their_scales():
    scale = torch.rand(5, 1, generator=torch.Generator().manual_seed(0)) + 0.1
    table, numbers = make_float((5, 3), scale)
    index = torch.tensor([[0, 4], [2, 2]])
    rows = F.embedding(index, table)
    assert type(rows) is FloatQuantTensor and rows.is_valid
    assert torch.equal(rows.minifloat().double(), numbers[index])
    assert rows.scale.shape == (2, 2, 1)
    shared = F.embedding(index, make_float((5, 3))[0])
    assert shared.scale.shape == () and shared.is_valid


def test_a_module_takes_a_table():
    table, numbers = make_float((5, 3), 1.0)
    assert torch.equal(F.embedding(torch.tensor([1]), table).value.double(), numbers[[1]])


def test_layers_and_pools_are_plain():
    x, _ = make_float((2, 4, 6, 6))
    w, _ = make_float((3, 4, 3, 3))
    for result, expected in (
        (F.conv2d(x, w), F.conv2d(x.value, w.value)),
        (F.avg_pool2d(x, 2), F.avg_pool2d(x.value, 2)),
        (F.adaptive_avg_pool2d(x, 3), F.adaptive_avg_pool2d(x.value, 3)),
        (x.sum(), x.value.sum()),
    ):
        assert type(result) is torch.Tensor and torch.equal(result, expected)


def test_selections_keep_minifloats():
    x, numbers = make_float((2, 4, 6, 6))
    y = F.max_pool2d(x, 2)
    assert type(y) is FloatQuantTensor and y.is_valid
    assert torch.equal(y.minifloat().double(), F.max_pool2d(numbers, 2))
    assert F.interpolate(x, scale_factor=2).is_valid and F.pad(x, (1, 1)).is_valid


def test_a_rule_can_be_added():
    x, _ = make_float((3,))
    implements_float_qt(torch.sinh)(lambda x: "rule")
    try:
        assert torch.sinh(x) == "rule"
    finally:
        del FLOAT_QUANT_TENSOR_FN_HANDLER[torch.sinh]
    assert type(torch.sinh(x)) is torch.Tensor
