"""Each QONNX operator has the value that QONNX's own executor gives its node."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from brevitas.export.common.spec import FloatSpec, QuantSpec
from brevitas.export.onnx.qonnx.function import float_quant, quant, trunc

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


@pytest.mark.parametrize("mode", ["ROUND", "FLOOR"])
def test_trunc(mode: str) -> None:
    source = QuantSpec(0.125, 0.0, 10, True, False)
    target = QuantSpec(0.5, 0.0, 8, True, False, mode)
    x = torch.arange(-20.0, 20.0).reshape(4, 10) * 0.125
    name, outputs = run_node(lambda x: trunc(x, source, target), x)
    assert name == "Trunc"
    assert torch.equal(trunc(x, source, target), outputs)


def test_float_quant() -> None:
    spec = FloatSpec(0.5, 4, 3, 7, 448.0, has_inf=False, has_nan=True)
    torch.manual_seed(0)
    x = torch.randn(4, 16) * 20
    name, outputs = run_node(lambda x: float_quant(x, spec), x)
    assert name == "FloatQuant"
    torch.testing.assert_close(float_quant(x, spec), outputs, rtol=2e-7, atol=0.0)
