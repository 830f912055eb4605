"""Every operator that moves values does so on quantized tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from brevitas.export.torch.qoperator.operators import (
    CLAMPS,
    SPLITTING,
    is_padding_with_zeros,
    moving,
)
from brevitas.export.torch.recording import RECORDING

pytestmark = pytest.mark.filterwarnings(
    # 2026-11: PyTorch deprecates quantized tensors.
    "ignore:.*quantized tensor creation functions:UserWarning",
    "ignore::DeprecationWarning",
)

aten = torch.ops.aten

CALLS: list[tuple[Any, tuple[Any, ...]]] = [
    (aten.alias.default, ()),
    (aten.channel_shuffle.default, (2,)),
    (aten.clone.default, ()),
    (aten.contiguous.default, ()),
    (aten.detach.default, ()),
    (aten.dropout.default, (0.5, False)),
    (aten.expand.default, ([2, 4, 6, 6],)),
    (aten.flatten.using_ints, (1,)),
    (aten.flip.default, ([1],)),
    (aten.index.Tensor, ([None, torch.tensor([2, 0])],)),
    (aten.index_select.default, (1, torch.tensor([2, 0]))),
    (aten.max_pool2d.default, ([2, 2],)),
    (aten.pad.default, ([1, 2, 0, 1],)),
    (aten.pad.default, ([1, 2], "constant", 0.0)),
    (aten.pad.default, ([1, 2, 2, 1], "reflect")),
    (aten.pad.default, ([1, 2, 2, 1], "replicate")),
    (aten.pad.default, ([1, 2, 2, 1], "circular")),
    (aten.permute.default, ([0, 2, 3, 1],)),
    (aten.pixel_shuffle.default, (2,)),
    (aten.pixel_unshuffle.default, (2,)),
    (aten.repeat.default, ([1, 2, 1, 1],)),
    (aten.reshape.default, ([2, -1],)),
    (aten.roll.default, ([1], [1])),
    (aten.select.int, (1, 0)),
    (aten.slice.Tensor, (1, 1, 9223372036854775807, 2)),
    (aten.slice.Tensor, (-2, -3)),
    (aten.squeeze.default, ()),
    (aten.squeeze.dim, (0,)),
    (aten.squeeze.dims, ([0],)),
    (aten.tile.default, ([2, 1, 1, 1],)),
    (aten.transpose.int, (1, 2)),
    (aten.unsqueeze.default, (0,)),
    (aten.upsample_nearest2d.vec, (None, [2.0, 2.0])),
    (aten.view.default, ([2, -1],)),
]
OTHER_SHAPES: list[tuple[Any, tuple[Any, ...], tuple[int, ...]]] = [
    (aten.t.default, (), (3, 4)),
    (aten.max_pool1d.default, ([2],), (2, 3, 6)),
    (aten.max_pool3d.default, ([2, 2, 2],), (1, 2, 4, 4, 4)),
    (aten.upsample_nearest1d.vec, (None, [2.0]), (2, 3, 4)),
]


def quantized(shape: tuple[int, ...]) -> Tensor:
    return torch.quantize_per_tensor(torch.randn(shape), 0.05, 117, torch.quint8)


@pytest.mark.parametrize(
    ("target", "rest", "shape"), [(*call, (2, 4, 6, 6)) for call in CALLS] + OTHER_SHAPES
)
def test_values_are_moved(target: Any, rest: tuple[Any, ...], shape: tuple[int, ...]) -> None:
    x = quantized(shape)
    function = moving(target, rest, {})
    assert function is not None
    moved = function(x)
    assert (moved.q_scale(), moved.q_zero_point()) == (x.q_scale(), x.q_zero_point())
    assert torch.equal(moved.dequantize(), target(x.dequantize(), *rest))


@pytest.mark.parametrize(
    ("target", "rest"),
    [
        (aten.chunk.default, (2, 1)),
        (aten.split.Tensor, (3, 1)),
        (aten.split_with_sizes.default, ([1, 3], 1)),
        (aten.unbind.int, (1,)),
    ],
)
def test_values_are_dealt_out(target: Any, rest: tuple[Any, ...]) -> None:
    x = quantized((2, 4, 3))
    parts = SPLITTING[target](x, *rest)
    expected = target(x.dequantize(), *rest)
    assert [part.dequantize().tolist() for part in parts] == [e.tolist() for e in expected]


def test_what_changes_values_is_no_move() -> None:
    assert moving(aten.sigmoid.default, (), {}) is None
    assert moving(aten.dropout.default, (0.5, True), {}) is None
    assert moving(aten.pad.default, ([1, 1], "constant", 1.0), {}) is None


@pytest.mark.parametrize(
    ("rest", "expected"),
    [(([1, 1],), True), (([1, 1], "constant", 0.0), True), (([1, 1], "reflect"), False)],
)
def test_padding_with_zeros(rest: tuple[Any, ...], expected: bool) -> None:
    assert is_padding_with_zeros(aten.pad.default, rest) is expected
    assert not is_padding_with_zeros(aten.relu.default, ())


@pytest.mark.parametrize("target", CLAMPS)
def test_limits_of_clamps(target: Any) -> None:
    limit = {"clamp": (-0.5, 1.0), "clamp_max": (0.5,), "clamp_min": (-0.5,)}
    rest = limit.get(target.__name__.partition(".")[0], ())
    x = torch.linspace(-8, 8, 33)
    low, high = CLAMPS[target](*rest)
    assert torch.equal(x.clamp(low, high), target(x, *rest))


def test_sizes_are_recorded() -> None:
    class Sized(nn.Module):
        def forward(self, x: Tensor) -> tuple[Any, ...]:
            n = torch.Tensor.size(x, 0)
            calls = {
                aten.arange.default: (n,),
                aten.expand.default: (x[:1], (n, 3)),
                aten.full.default: ([n], 2.0),
                aten.mul.Tensor: (x, n),
                aten.new_zeros.default: (x, [n, 1]),
                aten.repeat.default: (x[:1], (n, 1)),
                aten.slice.Tensor: (x, 0, n // 2),
                aten.view.default: (x, [n * 3]),
            }
            return tuple(RECORDING[target](*args) for target, args in calls.items())

    traced: Any = torch.jit.trace(Sized(), torch.randn(4, 3), check_trace=False)
    x = torch.randn(7, 3)
    for result, expected in zip(traced(x), Sized()(x), strict=True):
        assert torch.equal(result, expected)
