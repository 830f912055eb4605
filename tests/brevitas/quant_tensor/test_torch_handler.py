"""Tests of the torch functions that keep every quantized tensor quantized."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from brevitas.quant_tensor import IntQuantTensor
from brevitas.quant_tensor import torch_handler as module
from quant_tensors import make

SCALES = {
    "per tensor": 0.05,
    "per channel": torch.tensor([0.1, 0.2, 0.3, 0.4]).reshape(1, 4, 1, 1),
    "per sample": torch.tensor([0.1, 0.2]).reshape(2, 1, 1, 1),
    "per tensor, four dimensions": torch.full((1, 1, 1, 1), 0.05),
}

MOVES = [
    *("x.reshape(2, 144)", "x.reshape(-1)", "x.view(2, 4, 36)", "torch.flatten(x, 1)"),
    *("x.transpose(1, 2)", "x.permute(0, 2, 3, 1)", "torch.permute(x, (3, 2, 1, 0))"),
    *("x.unsqueeze(0)", "x.squeeze()", "x[:1].squeeze(0)", "torch.squeeze(x)", "x.movedim(1, 3)"),
    *("x[0]", "x[:, 1]", "x[..., 2:]", "x[:, [2, 0]]", "x[None]", "x[0, 1, 2]", "x[:, :, ::2]"),
    *("x.flip(1)", "torch.roll(x, 1, 1)", "x.expand(3, 2, 4, 6, 6)", "x.repeat(1, 2, 1, 1)"),
    *("x.narrow(1, 1, 2)", "x.select(1, 2)", "x.index_select(1, torch.tensor([3, 0]))"),
    *("F.pixel_shuffle(x, 2)", "F.pixel_unshuffle(x, 2)", "x.swapaxes(0, 1)"),
    *("x.contiguous()", "x.clone()", "+x", "x.unflatten(1, (2, 2))"),
]

SELECTIONS = [
    *("F.relu(x)", "x.relu()", "torch.relu(x)", "torch.nn.ReLU(inplace=True)(x)"),
    *("F.max_pool2d(x, 2)", "F.max_pool2d(x, 3, 2, 1)", "F.adaptive_max_pool2d(x, 2)"),
    *("F.interpolate(x, scale_factor=2)", "F.interpolate(x, 9, mode='nearest-exact')"),
    *("F.pad(x, (1, 2, 0, 1))", "torch.nn.ZeroPad2d(1)(x)", "F.pad(x, (1, 1, 1, 1), 'reflect')"),
    *("F.dropout(x, 0.5, training=False)", "torch.nn.Dropout2d().eval()(x)"),
]


def _both(expression, x, integers):
    names = {"torch": torch, "F": F}
    return eval(expression, {**names, "x": x}), eval(expression, {**names, "x": integers})


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES.keys())
@pytest.mark.parametrize("expression", MOVES)
def test_moves_take_the_scales_along(expression, scale):
    x, integers = make((2, 4, 6, 6), scale)
    actual, expected = _both(expression, x, integers)
    assert type(actual) is IntQuantTensor and actual.is_valid
    assert actual.shape == expected.shape
    assert torch.equal(actual.int().double(), expected)


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES.keys())
@pytest.mark.parametrize("expression", SELECTIONS)
def test_selections_commute_with_the_integers(expression, scale):
    x, integers = make((2, 4, 6, 6), scale)
    actual, expected = _both(expression, x, integers)
    assert type(actual) is IntQuantTensor and actual.is_valid
    assert torch.equal(actual.int().double(), expected)


def test_reshape_keeps_small_scales_small():
    x, _ = make((2, 4, 6, 6), SCALES["per channel"])
    assert x.flatten(2).scale.shape == (1, 4, 1)
    assert x.permute(0, 2, 3, 1).scale.shape == (1, 1, 1, 4)
    assert make((2, 4, 6, 6))[0].flatten(1).scale.shape == ()


def test_indices_come_with_the_values():
    x, integers = make((2, 4, 6, 6))
    values, indices = F.max_pool2d(x, 2, return_indices=True)
    assert type(values) is IntQuantTensor
    assert torch.equal(indices, F.max_pool2d(integers, 2, return_indices=True)[1])


def test_dropout_in_training_widens_the_scale():
    x, integers = make((2, 4, 6, 6), 0.05)
    torch.manual_seed(0)
    y = F.dropout(x, 0.75, training=True)
    # 1 / (1 - 0.75) = 4 is exact.
    assert y.is_valid and torch.equal(y.scale, 4 * x.scale)
    kept = y.int().double()
    assert torch.equal(kept, torch.where(kept == 0, 0.0, integers))
    assert type(F.alpha_dropout(x, 0.5, training=True)) is torch.Tensor


@pytest.mark.parametrize(
    "expression",
    [
        "F.interpolate(x, scale_factor=2, mode='bilinear')",
        "F.pad(x, (1, 1), value=0.123)",
        "F.leaky_relu(x)",
        "F.max_pool2d(x.set(scale=torch.rand(6, 6) + 0.1), 2)",
    ],
)
def test_values_off_the_grid_are_plain(expression):
    x, _ = make((2, 4, 6, 6))
    assert type(eval(expression)) is torch.Tensor


def test_hardtanh_and_relu6_keep_the_fields():
    x, _ = make((2, 4, 6, 6), 0.5)
    for y in (F.relu6(x), F.hardtanh(x, -1.0, 1.0)):
        assert y.is_valid and y.scale is x.scale


def test_a_rule_can_be_added():
    x, _ = make((3,))
    module.implements(torch.digamma)(lambda inp: "rule")
    try:
        assert torch.digamma(x) == "rule"
    finally:
        del module.QUANT_TENSOR_FN_HANDLER[torch.digamma]
