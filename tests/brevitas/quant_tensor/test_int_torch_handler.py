"""Tests of the torch functions with a rule for affine integers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from brevitas.quant_tensor import INT_QUANT_TENSOR_FN_HANDLER, IntQuantTensor
from brevitas.quant_tensor import int_torch_handler as module
from quant_tensors import make


@pytest.mark.parametrize("zero_point", [0.0, 3.0])
@pytest.mark.parametrize("signed", [False, True])
def test_average_pool_holds_the_sums(signed, zero_point):
    x, i = make((2, 4, 6, 6), 0.05, zero_point, 8, signed)
    for kernel, arguments in ((2, {}), ((3, 2), {"stride": 1}), (3, {"divisor_override": 4})):
        y = F.avg_pool2d(x, kernel, **arguments)
        assert type(y) is IntQuantTensor and y.is_valid
        sums = F.avg_pool2d(i, kernel, arguments.get("stride"), divisor_override=1)
        assert torch.equal(y.int().double(), sums)
        torch.testing.assert_close(y.value, F.avg_pool2d(x.value, kernel, **arguments))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("kernel", [(1, 5), (2, 5), (3, 7)])
def test_no_average_pool_overflows_its_bit_width(signed, kernel):
    """Many integers of few bits: the sum of the most negative ones needs the most bits."""
    low, high = (-2.0, 1.0) if signed else (0.0, 3.0)
    for extreme in (low, high):
        x = IntQuantTensor(torch.full((1, 1, *kernel), extreme), 1.0, 0.0, 2.0, signed, False)
        for y in (F.avg_pool2d(x, kernel), F.adaptive_avg_pool2d(x, 1)):
            assert y.is_valid and int(y.int()) == extreme * kernel[0] * kernel[1]


def test_average_pool_with_windows_of_different_sizes_is_plain():
    x, _ = make((2, 4, 6, 6))
    assert type(F.avg_pool2d(x, 3, padding=1, count_include_pad=False)) is torch.Tensor
    assert type(F.avg_pool2d(x, 4, ceil_mode=True)) is torch.Tensor
    assert type(F.avg_pool2d(x, 3, padding=1)) is IntQuantTensor
    assert type(F.avg_pool2d(x, 3, ceil_mode=True)) is IntQuantTensor


@pytest.mark.parametrize("size", [1, 2, 3, 6, (2, 3), (None, 2), 4])
def test_adaptive_average_pool(size):
    x, _ = make((2, 4, 6, 6), 0.05, 3.0)
    y = F.adaptive_avg_pool2d(x, size)
    torch.testing.assert_close(y.value, F.adaptive_avg_pool2d(x.value, size))
    assert y.is_valid


def test_adaptive_average_pool_with_windows_of_different_sizes_is_plain():
    x, _ = make((2, 4, 7, 7))
    # Windows [0, 2), [1, 3), [2, 5), ... of two and of three elements.
    assert type(F.adaptive_avg_pool2d(x, 5)) is torch.Tensor
    assert type(F.adaptive_avg_pool2d(x, 6)) is IntQuantTensor


@pytest.mark.parametrize("scale", [0.05, torch.tensor([[0.1], [0.2], [0.3]])])
def test_embedding_looks_up_rows_and_their_scales(scale):
    table, integers = make((3, 5), scale)
    index = torch.tensor([[2, 0], [1, 1]])
    y = F.embedding(index, table)
    assert torch.equal(y.int().double(), integers[index])


def test_mixed_operands_give_plain_tensors():
    x, _ = make((3, 5))
    w, _ = make((4, 5))
    for a, b in ((x, w.value), (x.value, w)):
        assert type(F.linear(a, b)) is torch.Tensor
    assert type(F.linear(x.value, w, x[0][:4])) is torch.Tensor


def test_registry_and_factory():
    assert INT_QUANT_TENSOR_FN_HANDLER[F.linear] is module.linear_handler
    x, _ = make((3,))
    y = module.create_int_quant_tensor(x.value, x.scale, x.bit_width, x.zero_point, True, False)
    assert torch.equal(y.int(), x.int())
    assert type(module.quant_layer(F.linear, x, x.unsqueeze(0), None)) is IntQuantTensor


BINARY = IntQuantTensor(
    torch.tensor([[-0.5, 0.5], [0.5, 0.5]]).expand(1, 1, 2, 2), 0.5, 0.0, 1, True, False
)


@pytest.mark.parametrize(
    ("function", "bits"),
    [
        (F.relu, 2),
        (torch.relu, 2),
        (lambda x: x.relu(), 2),
        (lambda x: F.hardtanh(x, 0.0, 1.0), 2),
        (lambda x: F.pad(x, (1, 1)), 2),
        (lambda x: F.max_pool2d(x, 2), 1),
        (lambda x: x.flatten(), 1),
        (lambda x: F.avg_pool2d(x, 2), 4),
        (lambda x: F.avg_pool2d(x, 2, padding=1), 4),
        (lambda x: F.adaptive_avg_pool2d(x, 1), 4),
    ],
)
def test_binary_tensors_get_the_bits_they_need(function, bits):
    y = function(BINARY)
    assert type(y) is IntQuantTensor and y.bit_width == bits and y.is_valid
    torch.testing.assert_close(y.int() * y.scale, y.value)
    ones = BINARY.set(value=torch.full((1, 1, 2, 2), 0.5))
    for extreme in (ones, -ones):
        assert function(extreme).is_valid


def test_other_widths_keep_their_bits_through_a_relu():
    x, _ = make((3, 4), 0.05, 0.0, 4)
    assert F.relu(x).bit_width is x.bit_width
