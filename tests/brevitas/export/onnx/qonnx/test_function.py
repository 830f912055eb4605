"""Each QONNX operator has the value that QONNX's own executor gives its node."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from brevitas.export.common.spec import FloatSpec, QuantSpec
from brevitas.export.onnx.qonnx.function import (
    float_quant,
    quant,
    trunc,
    trunc_keeping_scale,
)
from integer_shift import truncated

onnx_exec = pytest.importorskip("qonnx.core.onnx_exec")
modelwrapper = pytest.importorskip("qonnx.core.modelwrapper")


class Call(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def run_node(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(Call(function), (x,), dynamo=True, verbose=False)
        model = modelwrapper.ModelWrapper(program.model_proto)
        outputs = onnx_exec.execute_onnx(model, {model.graph.input[0].name: x.numpy()})
    (node,) = model.graph.node
    assert node.domain == "qonnx.custom_op.general"
    return node.op_type, torch.from_numpy(next(iter(outputs.values())))


SPECS = [
    QuantSpec(0.1, 0.0, 8, True, False),
    QuantSpec(0.1, 0.0, 3, True, True),
    QuantSpec(0.1, 5.0, 4, False, False),
    QuantSpec(0.1, 0.0, 4, True, False, "FLOOR"),
    QuantSpec(0.1, 0.0, 4, True, False, "CEIL"),
    QuantSpec(0.1, 0.0, 4, True, False, "ROUND_TO_ZERO"),
    QuantSpec(torch.tensor([[0.1], [0.2], [0.3]]), 0.0, 4, True, True),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.bits}b-{spec.rounding_mode}")
def test_quant(spec: QuantSpec) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 7)
    name, outputs = run_node(lambda x: quant(x, spec), x)
    assert name == "Quant"
    # Two computations of the same product may differ in the last bit.
    torch.testing.assert_close(quant(x, spec), outputs, rtol=2e-7, atol=0.0)


def test_bipolar_quant() -> None:
    spec = QuantSpec(0.5, 0.0, 1, True, True)
    x = torch.tensor([[-1.0, 0.0, 2.0]])
    name, outputs = run_node(lambda x: quant(x, spec), x)
    assert name == "BipolarQuant"
    assert torch.equal(quant(x, spec), outputs)


@pytest.mark.parametrize("mode", ["ROUND", "FLOOR", "CEIL", "ROUND_TO_ZERO"])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("narrow", [True, False])
@pytest.mark.parametrize("zero_point", [0.0, 4.0])
def test_trunc(mode: str, signed: bool, narrow: bool, zero_point: float) -> None:
    source = QuantSpec(0.3, zero_point, 10, signed, False)
    target = QuantSpec(1.2, zero_point / 4, 8, signed, narrow, mode)
    q = torch.arange(source.minimum, source.maximum + 1).reshape(32, -1)
    x = (q - zero_point) * source.scale
    name, outputs = run_node(lambda x: trunc(x, source, target), x)
    assert name == "Trunc"
    # Two computations of the same product may differ in the last bit.
    torch.testing.assert_close(trunc(x, source, target), outputs, rtol=2e-7, atol=0.0)


@pytest.mark.parametrize("mode", ["ROUND", "FLOOR", "CEIL", "ROUND_TO_ZERO"])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("zero_point", [0.0, 4.0])
def test_trunc_of_version_1(mode: str, signed: bool, zero_point: float) -> None:
    source = QuantSpec(0.3, zero_point, 10, signed, False)
    target = QuantSpec(0.3, zero_point, 8, signed, False, mode)
    q = torch.arange(source.minimum, source.maximum + 1).reshape(32, -1)
    x = (q - zero_point) * source.scale
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call = Call(lambda x: trunc_keeping_scale(x, source, target))
        program = torch.onnx.export(call, (x,), dynamo=True, verbose=False)
        model = modelwrapper.ModelWrapper(program.model_proto)
        outputs = onnx_exec.execute_onnx(model, {model.graph.input[0].name: x.numpy()})
    operators = [node.op_type for node in model.graph.node]
    # Cutting off never leaves the range; what rounds up is clamped, as in the newer version.
    assert operators == (["Trunc"] if mode in ("FLOOR", "ROUND_TO_ZERO") else ["Trunc", "Clip"])
    imports = {item.domain: item.version for item in model.model.opset_import}
    assert imports["qonnx.custom_op.general"] == 1
    y = trunc_keeping_scale(x, source, target)
    output = torch.from_numpy(next(iter(outputs.values())))
    torch.testing.assert_close(y, output, rtol=2e-7, atol=0.0)
    integers = torch.round(y / source.scale + zero_point).long()
    assert torch.equal(integers, truncated(q, 10, 8, mode, signed))


def test_float_quant() -> None:
    spec = FloatSpec(0.5, 4, 3, 7, 448.0, has_inf=False, has_nan=True)
    torch.manual_seed(0)
    x = torch.randn(4, 16) * 20
    name, outputs = run_node(lambda x: float_quant(x, spec), x)
    assert name == "FloatQuant"
    torch.testing.assert_close(float_quant(x, spec), outputs, rtol=2e-7, atol=0.0)
