"""Fusing quantizers and layers, in whole graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from brevitas.export import export_onnx_qop
from brevitas.export.common.spec import ExportError
from brevitas.nn import QuantConv1d, QuantConv2d, QuantConvTranspose1d, QuantIdentity, QuantReLU
from brevitas.quant import Int8ActPerTensorFloat, ShiftedUint8ActPerTensorFloat
from export_runtime import operators, run_onnxruntime

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

INPUT: dict[str, Any] = {"input_quant": Int8ActPerTensorFloat, "bias": False}


def prepared(model: nn.Module, x: Tensor) -> nn.Module:
    with torch.no_grad():
        model.train()(x)
    return model.eval()


class Fork(nn.Module):
    """Two quantizers behind one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = QuantConv1d(2, 4, 3, **INPUT)
        self.first, self.last = QuantReLU(bit_width=3), QuantIdentity(ShiftedUint8ActPerTensorFloat)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return self.last(y) + self.first(y)


MODELS = {
    "clamps": (
        nn.Sequential(QuantConv2d(2, 4, 3, **INPUT), nn.ReLU6(), QuantIdentity()),
        (2, 2, 6, 6),
        ["QuantizeLinear", "QLinearConv", "Clip", "DequantizeLinear"],
    ),
    "hardtanh": (
        nn.Sequential(QuantConv1d(2, 4, 3, **INPUT), nn.Hardtanh(-0.3, 0.2), QuantIdentity()),
        (2, 2, 6),
        ["QuantizeLinear", "QLinearConv", "Clip", "DequantizeLinear"],
    ),
    "moves": (
        nn.Sequential(
            QuantConv2d(2, 4, 3, **INPUT), nn.MaxPool2d(2), nn.Flatten(2), QuantReLU(), nn.Flatten()
        ),
        (2, 2, 6, 6),
        ["QuantizeLinear", "QLinearConv", "MaxPool", "Reshape", "Reshape", "DequantizeLinear"],
    ),
    "zeros around": (
        nn.Sequential(
            QuantIdentity(ShiftedUint8ActPerTensorFloat), nn.ZeroPad2d(1),
            QuantConv2d(2, 4, 3, bias=False, output_quant=Int8ActPerTensorFloat),
        ),  # fmt: skip
        (2, 2, 6, 6),
        ["QuantizeLinear", "QLinearConv", "DequantizeLinear"],
    ),
    "real values": (
        nn.Sequential(QuantConv1d(2, 4, 3, **INPUT), QuantReLU(), nn.Sigmoid(), QuantIdentity()),
        (2, 2, 6),
        ["QuantizeLinear", "QLinearConv", "DequantizeLinear", "Sigmoid", "QuantizeLinear",
         "DequantizeLinear"],
    ),
    "one scale twice": (
        nn.Sequential(
            QuantConv1d(2, 4, 3, **INPUT, output_quant=Int8ActPerTensorFloat), nn.ReLU(),
            QuantConv1d(4, 2, 1, bias=False, output_quant=Int8ActPerTensorFloat),
        ),  # fmt: skip
        (2, 2, 6),
        ["QuantizeLinear", "QLinearConv", "Clip", "QLinearConv", "DequantizeLinear"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_operators_around_layers(name: str) -> None:
    model, shape, expected = MODELS[name]
    prepared(model, torch.randn(shape))
    exported = export_onnx_qop(model, torch.randn(shape))
    assert operators(exported) == expected
    x = torch.randn(shape)
    last: Any = model[-1] if name in ("zeros around", "one scale twice") else None
    quantizers = [m.act_quant for m in model if isinstance(m, (QuantIdentity, QuantReLU))]
    scale = last.output_quant.scale() if last is not None else quantizers[-1].scale()
    # A step, since sums close to the edge between two integers may round either way; two where
    # a step of the layer before may come on top.
    allowed = (2.01 if name in ("real values", "one scale twice") else 1.01) * scale
    assert (run_onnxruntime(exported, x) - model(x)).abs().max() < allowed


def test_two_quantizers_behind_one_layer() -> None:
    x = torch.randn(2, 2, 6)
    model = prepared(Fork(), x)
    exported = export_onnx_qop(model, x)
    assert operators(exported).count("QLinearConv") == 2
    x = torch.randn(2, 2, 6)
    # A step of each.
    allowed = 1.01 * (model.first.act_quant.scale() + model.last.act_quant.scale())
    assert (run_onnxruntime(exported, x) - model(x)).abs().max() < allowed


class Moved(nn.Module):
    """Values that are moved in front of a quantizer, and integers that are moved behind it."""

    def __init__(self, before: Any, behind: Any) -> None:
        super().__init__()
        self.input = QuantIdentity()
        self.first = QuantConv2d(2, 4, 3, bias=False)
        self.between = QuantIdentity()
        self.last = QuantConv2d(4, 2, 1, bias=False, output_quant=Int8ActPerTensorFloat)
        self.before, self.behind = before, behind

    def forward(self, x: Tensor) -> Tensor:
        x = self.between(self.before(self.first(self.input(x))))
        return self.last(self.behind(x))


def many_moves(x: Tensor) -> Tensor:
    x = x[:, :, 1:, ::2][:, [3, 0, 2, 1]]
    x = nn.functional.interpolate(x.repeat(1, 1, 2, 1), scale_factor=2)
    return nn.functional.pad(nn.functional.pad(x, (1, 1, 1, 1), "reflect"), (1, 0, 2, 1))


MOVES = {
    "many": (many_moves, many_moves),
    "batch": (lambda x: x[:1], lambda x: x.expand(3, -1, -1, -1)),
    "clamped zeros": (lambda x: nn.functional.pad(x, (1, 0, 2, 1)).clamp(-0.3, 0.5), nn.Identity()),
}


@pytest.mark.parametrize("name", MOVES)
def test_integers_are_moved(name: str) -> None:
    x = torch.randn(2, 2, 8, 8)
    model = prepared(Moved(*MOVES[name]), x)
    exported = export_onnx_qop(model, x)
    names = operators(exported)
    assert names.count("QLinearConv") == 2
    assert names[-1] == "DequantizeLinear" and names.count("DequantizeLinear") == 1
    x = torch.randn(2, 2, 8, 8)
    # A step of the layer before may come on top of that of the last one.
    allowed = 2.01 * model.last.output_quant.scale()
    assert (run_onnxruntime(exported, x) - model(x)).abs().max() < allowed


def test_integers_are_dealt_out() -> None:
    class Shuffle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input = QuantIdentity()
            self.left = QuantConv2d(2, 2, 1, bias=False, output_quant=Int8ActPerTensorFloat)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            left, right = self.input(x).chunk(2, dim=1)
            return self.left(left) + right, right

    x = torch.randn(2, 4, 3, 3)
    exported = export_onnx_qop(prepared(Shuffle(), x), x)
    assert operators(exported)[:3] == ["QuantizeLinear", "Split", "QLinearConv"]


def test_zeros_around_values_are_clamped_too() -> None:
    model = nn.Sequential(
        QuantConv1d(2, 4, 3, **INPUT), nn.ZeroPad1d(1), nn.Hardtanh(0.1, 0.3), QuantIdentity()
    )
    x = torch.randn(2, 2, 6)
    with pytest.raises(ExportError, match="read by Clip before it is quantized.*Layer: 0$"):
        export_onnx_qop(prepared(model, x), x)


class Reweighted(nn.Module):
    """A quantized weight that is changed before a layer reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = QuantConv1d(2, 4, 3, bias=False)
        self.quant = QuantIdentity()
        self.register_buffer("mask", torch.tensor([1.0, 0.0, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.layer.quant_weight() * self.mask
        return self.quant(nn.functional.conv1d(self.quant(x), weight - weight.mean()))


def test_a_layer_never_computes_with_a_quantized_weight_in_real_values() -> None:
    x = torch.randn(2, 2, 6)
    with pytest.raises(ExportError, match="no operator on integers for this Conv.*Layer: layer$"):
        export_onnx_qop(prepared(Reweighted(), x), x)


def test_layers_in_floating_point_stay() -> None:
    model = nn.Sequential(nn.Conv1d(2, 2, 1), QuantConv1d(2, 2, 1, **INPUT), QuantReLU())
    x = torch.randn(1, 2, 4)
    names = operators(export_onnx_qop(prepared(model, x), x))
    assert names == ["Conv", "QuantizeLinear", "QLinearConv", "DequantizeLinear"]


def test_transposed_convolutions_have_no_integer_operator() -> None:
    model = nn.Sequential(QuantConvTranspose1d(2, 2, 2, **INPUT), QuantIdentity())
    x = torch.randn(1, 2, 4)
    with pytest.raises(ExportError, match="ConvTranspose.*export_onnx_qcdq. Layer: 0$"):
        export_onnx_qop(prepared(model, x), x)


def test_batch_normalization_is_to_be_merged() -> None:
    model = nn.Sequential(QuantConv1d(2, 2, 1, **INPUT), nn.BatchNorm1d(2), QuantReLU())
    x = torch.randn(4, 2, 4)
    with pytest.raises(ExportError, match="BatchNormalization.*merge.*Layer: 0$"):
        export_onnx_qop(prepared(model, x), x)
