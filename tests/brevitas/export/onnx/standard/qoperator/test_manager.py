"""The target of integer operators, run in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from brevitas.export import StdQOpONNXManager, export_onnx_qop
from brevitas.export.common.spec import ExportError
from brevitas.nn import QuantConv1d, QuantConv2d, QuantConv3d, QuantIdentity, QuantLinear
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int16Bias,
    Int32Bias,
    ShiftedUint8ActPerTensorFloat,
    ShiftedUint8WeightPerChannelFloat,
    Uint8ActPerTensorFloat,
)
from export_runtime import initializers, operators
from integer_networks import Block

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

SIGNED = {"input_quant": Int8ActPerTensorFloat, "output_quant": Int8ActPerTensorFloat}
SHIFTED = {
    "input_quant": ShiftedUint8ActPerTensorFloat,
    "output_quant": ShiftedUint8ActPerTensorFloat,
}


class Side(nn.Module):
    """Layers side by side, so that one export covers them all."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(layer(x) for layer, x in zip(self.layers, inputs, strict=True))


def prepared(model: nn.Module, *inputs: Tensor) -> nn.Module:
    """Let the model collect its scales."""
    with torch.no_grad():
        model.train()(*inputs)
    return model.eval()


def run(model: Any, inputs: tuple[Tensor, ...], optimized: bool = False) -> list[Tensor]:
    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [item.name for item in session.get_inputs()]
    feed = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    return [torch.from_numpy(y) for y in session.run(None, feed)]


def steps(results: list[Tensor], expected: tuple[Tensor, ...], layers: Any) -> list[Tensor]:
    """Differences in steps of each layer's output."""
    scales = [layer.output_quant.scale() for layer in layers]
    pairs = zip(results, expected, scales, strict=True)
    return [((result - value) / scale).abs().detach() for result, value, scale in pairs]


def compare(layers: list[nn.Module], inputs: tuple[Tensor, ...]) -> Any:
    """Export layers side by side, and check every one to a step on new values."""
    model = prepared(Side(*layers), *inputs)
    exported = export_onnx_qop(model, inputs)
    fresh = tuple(1.3 * torch.randn_like(x) for x in inputs)
    for optimized in (False, True):
        for difference in steps(run(exported, fresh, optimized), model(*fresh), layers):
            # One step, and a relative rounding of the dequantized value.
            assert difference.max() < 1.01
            # Values on the edge between two integers only; see the next test for the share.
            assert (difference > 0.5).float().mean() < 0.03
    return exported


def test_the_documented_example(tmp_path: Path) -> None:
    layer = QuantConv1d(
        2, 4, 3, bias=True, weight_bit_width=4, bias_quant=Int16Bias, **SIGNED
    )  # fmt: skip
    x = torch.randn(1, 2, 5)
    layer(x)
    path = tmp_path / "conv.onnx"
    exported = export_onnx_qop(layer, input_t=x, export_path=path)
    assert path.read_bytes() == exported.SerializeToString()
    assert operators(exported) == ["QuantizeLinear", "QLinearConv", "DequantizeLinear"]
    constants = initializers(exported)
    node = exported.graph.node[1]
    assert constants[node.input[3]].dtype == torch.int8
    assert constants[node.input[3]].abs().max() <= 7
    assert constants[node.input[8]].dtype == torch.int32
    assert exported.ir_version <= 10
    layer.eval()
    assert steps(run(exported, (x,)), (layer(x),), [layer])[0].max() < 1.01


def test_convolutions() -> None:
    per_channel = {"weight_scaling_per_output_channel": True}
    whole = {"bias_quant": Int32Bias}
    layers = [
        QuantConv1d(4, 6, 3, stride=2, padding=1, weight_bit_width=4, **whole, **SIGNED),
        QuantConv1d(4, 4, 3, groups=4, dilation=2, padding="same", bias=False, **SHIFTED),
        QuantConv2d(4, 8, 3, stride=(2, 1), padding=(1, 0), groups=2, **per_channel, **SHIFTED),
        QuantConv2d(4, 8, 3, padding=1, padding_mode="reflect", **whole, **SIGNED),
        QuantConv2d(4, 8, 3, weight_quant=ShiftedUint8WeightPerChannelFloat, **whole, **SIGNED),
        QuantConv2d(
            4,
            8,
            4,
            stride=2,
            padding="same",
            input_quant=Int8ActPerTensorFloat,
            output_quant=Uint8ActPerTensorFloat,
        ),
        QuantConv3d(2, 4, 3, padding=1, stride=2, **per_channel, **whole, **SHIFTED),
    ]
    shapes = [(2, 4, 16)] * 2 + [(2, 4, 8, 8)] * 4 + [(2, 2, 5, 5, 5)]
    exported = compare(layers, tuple(torch.randn(shape) for shape in shapes))
    names = operators(exported)
    assert names.count("QLinearConv") == len(layers)
    assert "Conv" not in names and "Clip" not in names


def test_linear_layers() -> None:
    per_channel = {"weight_scaling_per_output_channel": True}
    layers = [
        QuantLinear(6, 4, bias_quant=Int32Bias, weight_bit_width=5, **SIGNED),
        QuantLinear(6, 4, bias=False, **per_channel, **SHIFTED),
        QuantLinear(6, 4, bias_quant=Int32Bias, **per_channel, **SHIFTED),
        QuantLinear(6, 4, bias_quant=Int32Bias, **SHIFTED),
        QuantLinear(6, 4, bias=False, **SIGNED),
    ]
    shapes = [(5, 6), (5, 6), (3, 5, 6), (2, 3, 5, 6), (6,)]
    exported = compare(layers, tuple(torch.randn(shape) for shape in shapes))
    names = operators(exported)
    assert names.count("QLinearMatMul") == 2 and names.count("QLinearConv") == 3
    assert not {"Gemm", "MatMul", "Add"} & set(names)


def test_share_of_values_that_round_to_the_other_integer() -> None:
    layer = QuantConv2d(8, 16, 3, padding=1, bias_quant=Int32Bias, **SHIFTED)
    x = torch.randn(8, 8, 32, 32)
    exported = export_onnx_qop(prepared(layer, x), x)
    difference = steps(run(exported, (x,)), (layer(x),), [layer])[0]
    # Both sums are exact to 2**-21 or so of the output range of 256 steps: about one value in
    # 2**13 steps of an edge. Measured: 0 to 2e-5 of 131,072 values.
    assert (difference > 0.5).float().mean() < 2e-4
    assert difference.max() < 1.01


def test_a_network() -> None:
    x = torch.randn(4, 3, 8, 8)
    model = prepared(Block(**SIGNED), x)
    exported = export_onnx_qop(model, x)
    names = operators(exported)
    assert names.count("QLinearConv") == 3
    assert not {"Conv", "Gemm", "Relu"} & set(names)
    # Two for the residual sum, one from its scale to that of the last layer, one at the end.
    assert names.count("DequantizeLinear") == 4
    x = torch.randn(4, 3, 8, 8)
    difference = steps(run(exported, (x,)), (model(x),), [model.head])[0]
    # A step in an early layer may move the last one by more than one.
    assert difference.max() < 2.01 and (difference > 0.5).float().mean() < 0.1


def test_a_product_of_activations() -> None:
    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query = QuantLinear(6, 6, bias=False, **SIGNED)
            self.key = QuantLinear(6, 6, bias=False, **SIGNED)
            self.output_quant = QuantIdentity()

        def forward(self, x: Tensor) -> Tensor:
            return self.output_quant(self.query(x) @ self.key(x).transpose(1, 2))

    x = torch.randn(2, 5, 6)
    model = prepared(Scores(), x)
    exported = export_onnx_qop(model, x)
    assert operators(exported).count("QLinearMatMul") == 3
    scale = model.output_quant.act_quant.scale()
    difference = ((run(exported, (x,))[0] - model(x)) / scale).abs()
    assert difference.max() < 2.01 and (difference > 0.5).float().mean() < 0.1


@pytest.mark.parametrize(
    "model, message",
    [
        (
            nn.Sequential(QuantIdentity(), QuantConv1d(2, 2, 1)),
            "leaves the model.*output_quant=Int8ActPerTensorFloat.*Layer: 1$",
        ),
        (
            nn.Sequential(QuantIdentity(), QuantConv1d(2, 2, 1), nn.Sigmoid()),
            "read by Sigmoid.*Layer: 1$",
        ),
        (
            QuantConv1d(2, 2, 1, output_quant=Int8ActPerTensorFloat),
            "input is not quantized.*input_quant.*Layer: QuantConv1d$",
        ),
        (
            nn.Sequential(QuantConv1d(2, 2, 1, weight_quant=None, **SIGNED)),
            "weight_quant=None.*Layer: 0$",
        ),
        (QuantConv1d(2, 2, 1, weight_bit_width=9, **SIGNED), "bit_width=9.*Layer: weight_quant$"),
    ],
)
def test_what_has_no_integer_operator_names_layer_and_remedy(
    model: nn.Module, message: str, tmp_path: Path
) -> None:
    x = torch.randn(1, 2, 4)
    path = tmp_path / "model.onnx"
    with pytest.raises(ExportError, match=message):
        export_onnx_qop(prepared(model, x), x, path)
    assert not path.exists()


def test_the_warning_about_missing_data_points_at_the_caller() -> None:
    with pytest.warns(UserWarning, match="collected no statistics") as caught:
        export_onnx_qop(QuantIdentity(), torch.ones(2))
    assert caught[0].filename == __file__


def test_old_versions_of_the_standard_are_refused() -> None:
    with pytest.raises(ExportError, match="opset_version=12"):
        export_onnx_qop(QuantIdentity(), torch.zeros(1), opset_version=12)


def test_the_model_is_afterwards_what_it_was() -> None:
    layer = QuantLinear(3, 2, **SIGNED)
    x = torch.randn(4, 3)
    expected = prepared(layer, x)(x)
    layer.train()
    export_onnx_qop(layer, x)
    assert layer.training and layer.weight_quant.export_handler is None
    assert torch.equal(layer.eval()(x), expected)
    assert export_onnx_qop == StdQOpONNXManager.export
