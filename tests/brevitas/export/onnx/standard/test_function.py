"""Each standard operator has the value that ONNX Runtime gives its node."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from brevitas.export.onnx.standard.function import (
    Grid,
    clip,
    dequantize_linear,
    quantize_linear,
)

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


class Call(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def run_nodes(function: Callable[[Tensor], Tensor], x: Tensor, opset: int) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Call(function), (x,), dynamo=True, verbose=False, opset_version=opset
        )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), options)
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


@pytest.mark.parametrize(
    ("dtype", "zero_point", "opset"),
    [
        (torch.int8, 0, 18),
        (torch.int8, -3, 18),
        (torch.uint8, 117, 18),
        (torch.int16, 0, 21),
        (torch.float8_e4m3fn, 0, 21),
    ],
)
def test_quantize_dequantize(dtype: torch.dtype, zero_point: int, opset: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 32) * 8
    # Halves of a step too, so that the direction of ties is seen.
    x[0] = torch.arange(32.0) * 0.05 - 0.8
    grid = Grid(torch.tensor(0.1), torch.tensor(zero_point).to(dtype), None, "fc")

    def function(x: Tensor) -> Tensor:
        return dequantize_linear(quantize_linear(x, grid), grid)

    torch.testing.assert_close(function(x), run_nodes(function, x, opset), rtol=2e-7, atol=0.0)


@pytest.mark.parametrize("axis", [-1, -2])
def test_scale_per_channel(axis: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 3)
    scale = torch.tensor([0.1, 0.2, 0.4])
    grid = Grid(scale, torch.tensor([1, 2, 3], dtype=torch.int8), axis, "fc")

    def function(x: Tensor) -> Tensor:
        return dequantize_linear(quantize_linear(x, grid), grid)

    torch.testing.assert_close(function(x), run_nodes(function, x, 18), rtol=2e-7, atol=0.0)


def test_clip() -> None:
    low, high = torch.tensor([-7, 7], dtype=torch.int8)
    x = torch.tensor([-128, -8, 0, 7, 8, 127], dtype=torch.int8)
    assert torch.equal(clip(x, low, high, "fc"), run_nodes(lambda x: clip(x, low, high, ""), x, 18))
