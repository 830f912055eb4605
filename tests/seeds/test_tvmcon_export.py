"""TVMCon tutorial, cells 37 to 42: export to ONNX QOps, QDQ, QONNX and TorchScript."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from brevitas.export import export_onnx_qcdq
from brevitas.nn import QuantConv1d, QuantReLU
from brevitas.quant import Int8ActPerTensorFloat, Int16Bias, ShiftedUint8ActPerTensorFloat
from export_runtime import initializers, operators, run_onnxruntime, run_qonnx

# The tutorial exports layers that have seen no data; the library says so, in a warning.
WITHOUT_DATA = "collected no statistics, so that their exported scales are placeholders"


@dataclass(frozen=True)
class Exported:
    """A layer in evaluation, and the file that it was written to, as it is read again."""

    layer: Any
    file: Any

    def inputs(self, count: int = 20) -> list[Tensor]:
        """Inputs inside of the range of the exported scales, and beyond it."""
        generator = torch.Generator().manual_seed(1)
        return [(1 + i % 2) * torch.randn(1, 2, 5, generator=generator) for i in range(count)]

    def constants_of(self, operator: str, position: int) -> list[Tensor]:
        """The constant at one input of each node of a kind."""
        constants = initializers(self.file)
        nodes = [node for node in self.file.graph.node if node.op_type == operator]
        return [constants[node.input[position]] for node in nodes]


def assert_close_to_a_step(actual: list[Tensor], expected: list[Tensor], step: float) -> None:
    """Fail unless outputs agree, but for sums on the edge between two integers: those may differ
    by one step, since a runtime adds in another order or adds integers.
    """
    difference = (torch.stack(actual) - torch.stack(expected)).abs()
    assert difference.max() < 1.001 * step
    assert (difference > 0.5 * step).float().mean() < 0.01


def read(path: Path) -> Any:
    return pytest.importorskip("onnx").load(path)


def export_cell(export: Any, layer: nn.Module, float_inp: Tensor, output_path: Path) -> None:
    """The last line of the tutorial's cells, and the warning that it gives."""
    with pytest.warns(UserWarning, match=WITHOUT_DATA):
        export(layer, input_t=float_inp, export_path=output_path)


def cell_39_layer() -> tuple[Tensor, Any]:
    torch.manual_seed(0)

    float_inp = torch.randn(1, 2, 5)

    quant_conv_4b8b = QuantConv1d(
        2, 4, 3, bias=True, weight_bit_width=4,
        input_quant=Int8ActPerTensorFloat,
        output_quant=Int8ActPerTensorFloat,
        bias_quant=Int16Bias)  # fmt: skip
    return float_inp, quant_conv_4b8b


@pytest.fixture(scope="module")
def qop(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    from brevitas.export import export_onnx_qop

    float_inp, quant_conv_4b8b = cell_39_layer()
    output_path = tmp_path_factory.mktemp("qop") / "qop_onnx_conv_4b8b.onnx"
    export_cell(export_onnx_qop, quant_conv_4b8b, float_inp, output_path)
    return Exported(quant_conv_4b8b.eval(), read(output_path))


def test_s0_67_export_to_integer_operators(qop: Exported) -> None:
    assert operators(qop.file) == ["QuantizeLinear", "QLinearConv", "DequantizeLinear"]
    outputs = [run_onnxruntime(qop.file, x) for x in qop.inputs()]
    expected = [qop.layer(x).detach() for x in qop.inputs()]
    assert_close_to_a_step(outputs, expected, step=qop.layer.output_quant.scale().item())


def test_s0_68_fewer_bits_are_stored_as_8_and_a_bias_as_32(qop: Exported) -> None:
    weight, bias = (qop.constants_of("QLinearConv", position)[0] for position in (3, 8))
    quant_weight = qop.layer.quant_weight()
    assert weight.dtype == torch.int8 and torch.equal(weight, quant_weight.int())
    assert weight.abs().max() == 7, "4 bits in a symmetric range"
    accumulator_scale = qop.layer.input_quant.scale() * quant_weight.scale
    integers = (qop.layer.bias / accumulator_scale).round().clamp(-(2**15), 2**15 - 1)
    assert bias.dtype == torch.int32 and torch.equal(bias, integers.int())


def test_s0_68_the_output_has_to_be_quantized() -> None:
    from brevitas.export import export_onnx_qop

    layer = QuantConv1d(2, 4, 3, bias=True, input_quant=Int8ActPerTensorFloat)
    layer(torch.randn(1, 2, 5))
    with pytest.raises(RuntimeError, match="needs an output quantizer.*output_quant"):
        export_onnx_qop(layer, input_t=torch.randn(1, 2, 5))


@pytest.fixture(scope="module")
def qdq(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """4 bits of weight and input, 16 of bias; the output is not quantized."""
    float_inp = torch.randn(1, 2, 5, generator=torch.Generator().manual_seed(0))
    layer = QuantConv1d(
        2, 4, 3, bias=True, weight_bit_width=4,
        input_quant=Int8ActPerTensorFloat, input_bit_width=4,
        bias_quant=Int16Bias)  # fmt: skip
    output_path = tmp_path_factory.mktemp("qdq") / "qcdq.onnx"
    export_cell(export_onnx_qcdq, layer, float_inp, output_path)
    return Exported(layer.eval(), read(output_path))


def test_s0_69_two_operators_represent_the_quantization(qdq: Exported) -> None:
    kinds = {*operators(qdq.file)} - {"Clip"}
    assert kinds == {"QuantizeLinear", "DequantizeLinear", "Conv"}
    assert operators(qdq.file)[-1] == "Conv", "no output quantizer is needed"
    outputs = [run_onnxruntime(qdq.file, x) for x in qdq.inputs()]
    expected = [qdq.layer(x).detach() for x in qdq.inputs()]
    torch.testing.assert_close(outputs, expected)


def test_s0_69_fewer_bits_are_8_bits_between_limits(qdq: Exported) -> None:
    (input_zero_point,) = qdq.constants_of("QuantizeLinear", 2)
    assert input_zero_point.dtype == torch.int8
    limits = [qdq.constants_of("Clip", position) for position in (1, 2)]
    pairs = zip(*limits, strict=True)
    # The input's full range, the weight's symmetric one.
    assert sorted((int(low), int(high)) for low, high in pairs) == [(-8, 7), (-7, 7)]
    assert {limit.dtype for bound in limits for limit in bound} == {torch.int8}


@pytest.fixture(scope="module")
def qonnx(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    from brevitas.export import export_qonnx

    float_inp, quant_conv_4b8b = cell_39_layer()
    output_path = tmp_path_factory.mktemp("qonnx") / "brevitas_onnx_conv4b8b.onnx"
    export_cell(export_qonnx, quant_conv_4b8b, float_inp, output_path)
    return Exported(quant_conv_4b8b.eval(), read(output_path))


def test_s0_70_quant_nodes_hold_scale_zero_point_and_bits(qonnx: Exported) -> None:
    quant = "qonnx.custom_op.general::Quant"
    assert operators(qonnx.file) == [quant, quant, quant, "Conv", quant]
    scales, zero_points, bits = (qonnx.constants_of("Quant", position) for position in (1, 2, 3))
    assert [int(b) for b in bits] == [8, 4, 16, 8], "input, weight, bias, output"
    assert [int(z) for z in zero_points] == [0, 0, 0, 0]
    layer = qonnx.layer
    weight_scale = layer.quant_weight().scale
    expected = [
        layer.input_quant.scale(),
        weight_scale,
        layer.input_quant.scale() * weight_scale,
        layer.output_quant.scale(),
    ]
    assert [s.item() for s in scales] == pytest.approx([s.item() for s in expected])


def test_s0_70_the_file_runs_in_qonnx(qonnx: Exported) -> None:
    outputs = [run_qonnx(qonnx.file, x) for x in qonnx.inputs(6)]
    expected = [qonnx.layer(x).detach() for x in qonnx.inputs(6)]
    assert_close_to_a_step(outputs, expected, step=qonnx.layer.output_quant.scale().item())


def test_s0_70_any_scale_zero_point_and_bit_width(tmp_path: Path) -> None:
    from brevitas.export import export_qonnx

    layer = QuantConv1d(
        2, 4, 3, bias=True, weight_bit_width=3, weight_scaling_per_output_channel=True,
        input_quant=ShiftedUint8ActPerTensorFloat, input_bit_width=11)  # fmt: skip
    layer(torch.randn(1, 2, 5) - 1.0)
    export_qonnx(layer.eval(), input_t=torch.randn(1, 2, 5), export_path=tmp_path / "any.onnx")
    exported = Exported(layer, read(tmp_path / "any.onnx"))
    assert [int(b) for b in exported.constants_of("Quant", 3)] == [11, 3]
    assert exported.constants_of("Quant", 1)[1].numel() == 4, "one scale for each channel"
    assert exported.constants_of("Quant", 2)[0] == layer.input_quant.zero_point() != 0
    x = torch.randn(1, 2, 5) - 1.0
    torch.testing.assert_close(run_qonnx(exported.file, x), layer(x).detach())


def test_s0_71_weights_alone(tmp_path: Path) -> None:
    from brevitas.export import export_qonnx

    torch.manual_seed(0)

    float_inp = torch.randn(1, 2, 5)
    quant_conv_4b_weights = QuantConv1d(2, 4, 3, bias=True, weight_bit_width=4)

    output_path = tmp_path / "brevitas_onnx_conv_4b_weights.onnx"
    export_qonnx(quant_conv_4b_weights, input_t=float_inp, export_path=output_path)

    exported = Exported(quant_conv_4b_weights, read(output_path))
    assert operators(exported.file) == ["qonnx.custom_op.general::Quant", "Conv"]
    assert torch.equal(exported.constants_of("Quant", 0)[0], quant_conv_4b_weights.weight)
    assert exported.constants_of("Quant", 3)[0] == 4
    expected = quant_conv_4b_weights(float_inp).detach()
    torch.testing.assert_close(run_qonnx(exported.file, float_inp), expected)


# 2026-11: PyTorch deprecates TorchScript and quantized tensors, which this target writes.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions:UserWarning")
def test_s0_72_export_to_quantized_operators_of_torchscript(tmp_path: Path) -> None:
    from brevitas.export import export_torch_qop
    from brevitas.quant import ShiftedUint8ActPerTensorFloat

    float_inp = torch.randn(1, 2, 5)

    quant_conv_8b7b = QuantConv1d(
        2, 4, 3, bias=True,
        input_quant=ShiftedUint8ActPerTensorFloat,
        output_quant=ShiftedUint8ActPerTensorFloat,
        weight_bit_width=7,
        bias_quant=Int16Bias)  # fmt: skip

    output_path = tmp_path / "pytorch_qf_conv_8b7b.pt"
    export_cell(export_torch_qop, quant_conv_8b7b, float_inp, output_path)

    loaded = torch.jit.load(output_path)
    kinds = [node.kind() for node in loaded.inlined_graph.nodes()]
    assert "quantized::conv1d" in kinds and "aten::conv1d" not in kinds
    exported = Exported(quant_conv_8b7b.eval(), loaded)
    outputs = [loaded(x) for x in exported.inputs()]
    expected = [quant_conv_8b7b(x).detach() for x in exported.inputs()]
    step = quant_conv_8b7b.output_quant.scale().item()
    assert_close_to_a_step(outputs, expected, step)


def test_s0_73_an_unsigned_activation_with_a_zero_point() -> None:
    from brevitas.quant import ShiftedUint8ActPerTensorFloat

    layer = QuantReLU(input_quant=ShiftedUint8ActPerTensorFloat)
    x = torch.tensor([-1.0, 0.0, 3.0])
    output = layer.input_quant(x)
    assert not output.signed and output.bit_width == 8
    assert output.int().tolist() == [0, 64, 255] and output.zero_point == 64
    torch.testing.assert_close(output.scale.detach(), torch.tensor(4.0 / 255))
