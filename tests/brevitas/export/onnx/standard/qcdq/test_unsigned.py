"""Signed activations that a Reshape moves, in files of opset 21 and later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brevitas.export import export_onnx_qcdq
from brevitas.nn import QuantConv2d, QuantIdentity, QuantLinear
from brevitas.quant import ShiftedUint8ActPerTensorFloat
from export_runtime import initializers, run_onnxruntime

pytest.importorskip("onnxscript")

INT8, UINT8 = torch.int8, torch.uint8


class Moved(nn.Module):
    """A quantized layer whose output something moves."""

    def __init__(self, move: Callable[[Tensor], Tensor], **options: object) -> None:
        super().__init__()
        self.move = move
        self.input = QuantIdentity()
        self.layer = QuantConv2d(3, 4, 3, bias=False, weight_bit_width=7)
        self.output = QuantIdentity(**options)

    def forward(self, x: Tensor) -> Tensor:
        return self.move(self.output(self.layer(self.input(x))))


def ready(model: nn.Module, x: Tensor) -> nn.Module:
    with torch.no_grad():
        model.train()(x)
    return model.eval()


MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "flatten": lambda y: y.flatten(1),
    "reshape": lambda y: y.reshape(4, -1),
    "max pool": lambda y: F.max_pool2d(y, 2),
    "transpose": lambda y: y.transpose(1, 2),
    "slice": lambda y: y[:, 1:],
    "squeeze": lambda y: y[:, :1].squeeze(1),
    "branches": lambda y: y.flatten(1).sum(1, keepdim=True) + y.relu().flatten(1),
}


@pytest.mark.parametrize("opset", [21, 23])
@pytest.mark.parametrize("move", MOVES)
def test_files_load_with_every_optimization(move: str, opset: int) -> None:
    x = torch.randn(2, 3, 6, 6)
    model = ready(Moved(MOVES[move]), x)
    exported = export_onnx_qcdq(model, x, opset_version=opset)
    fresh = 1.3 * torch.randn_like(x)
    # Sums of a branch are added in another order.
    torch.testing.assert_close(run_onnxruntime(exported, fresh), model(fresh), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"bit_width": 4}, {"narrow_range": True}, {"act_quant": ShiftedUint8ActPerTensorFloat}],
    ids=["limits", "one limit", "unsigned already"],
)
def test_limits_move_with_the_integers(options: dict[str, object]) -> None:
    x = torch.randn(2, 3, 6, 6)
    model = ready(Moved(MOVES["flatten"], **options), x)
    exported = export_onnx_qcdq(model, x, opset_version=21)
    fresh = 3.0 * torch.randn_like(x)  # beyond the limits
    assert torch.equal(run_onnxruntime(exported, fresh), model(fresh))


def test_the_stored_integers_are_128_further_up() -> None:
    x = torch.randn(2, 3, 6, 6)
    model = ready(Moved(MOVES["flatten"], bit_width=4), x)
    older, newer = (
        limits_of_output(export_onnx_qcdq(model, x, opset_version=opset)) for opset in (18, 21)
    )
    assert len(older) == len(newer) == 3
    for before, after in zip(older, newer, strict=True):
        assert (before.dtype, after.dtype) == (INT8, UINT8)
        assert int(after) - int(before) == 128


def limits_of_output(exported: Any) -> list[Tensor]:
    """Zero point, smallest and largest integer of the quantizer of the output."""
    constants = initializers(exported)
    nodes = {n.op_type: n for n in exported.graph.node if n.name.startswith("output.act_quant/")}
    names = [nodes["QuantizeLinear"].input[2], *nodes["Clip"].input[1:]]
    return [constants[name] for name in names]


def test_others_stay_signed() -> None:
    x = torch.randn(2, 3, 6, 6)
    model = ready(nn.Sequential(QuantIdentity(), QuantLinear(6, 2, weight_bit_width=4)), x)
    constants = initializers(export_onnx_qcdq(model, x, opset_version=21))
    assert {value.dtype for value in constants.values()} <= {INT8, torch.float32}
    # The integers of the weight, and the quantizer of the input, which nothing moves.
    moved = ready(Moved(MOVES["flatten"]), x)
    constants = initializers(export_onnx_qcdq(moved, x, opset_version=21))
    assert {v.dtype for k, v in constants.items() if k.startswith("layer")} == {
        INT8,
        torch.float32,
    }
