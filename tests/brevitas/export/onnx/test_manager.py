"""The road from a model to a file, in both formats."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from brevitas.export import QONNXManager, StdQCDQONNXManager
from brevitas.export.common.spec import ExportError
from brevitas.nn import QuantConv2d, QuantIdentity, QuantLinear
from brevitas.quant import Int8ActPerTensorFloat, Int32Bias
from brevitas.quant_tensor import IntQuantTensor
from export_runtime import operators, run_onnxruntime, run_qonnx

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

FORMATS = [
    pytest.param(QONNXManager, run_qonnx, id="qonnx"),
    pytest.param(StdQCDQONNXManager, run_onnxruntime, id="qcdq"),
]
Run = Callable[..., Tensor]

# Sums of products may be taken in another order: some ulps of the largest term, here about 1.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


class Residual(nn.Module):
    """A residual block whose two branches end at one scale, in two quantizers or in one."""

    def __init__(self) -> None:
        super().__init__()
        self.input = QuantIdentity(return_quant_tensor=True)
        self.conv = QuantConv2d(3, 3, 3, padding=1, bias_quant=Int32Bias, return_quant_tensor=True)
        self.requantize = QuantIdentity(return_quant_tensor=True)
        self.out = QuantConv2d(3, 2, 1, bias_quant=Int32Bias, return_quant_tensor=True)

    def forward(self, x: Tensor) -> IntQuantTensor:
        x = self.input(x)
        return self.out(self.requantize(self.conv(x)) + self.requantize(x))


def calibrated(model: nn.Module, *inputs: Tensor) -> nn.Module:
    with torch.no_grad():
        model.train()(*inputs)
    return model.eval()


@pytest.mark.parametrize(("manager", "run"), FORMATS)
def test_residual(manager: Any, run: Run, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 6, 6)
    model = calibrated(Residual(), x)
    expected = model(x).value
    model.train()
    path = tmp_path / "model.onnx"
    exported = manager.export(model, x, path)
    assert onnx.load(path) == exported
    assert exported.ir_version <= 10
    torch.testing.assert_close(run(exported, x), expected, **CLOSE)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(("manager", "run"), FORMATS)
def test_several_inputs(manager: Any, run: Run) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = QuantLinear(4, 3, input_quant=Int8ActPerTensorFloat)
            self.unused = QuantLinear(4, 3)

        def forward(self, x: Tensor, y: Tensor, *, factor: float = 1.0) -> Tensor:
            return self.first(x) * factor + self.first(y)

    torch.manual_seed(0)
    x, y = torch.randn(2, 5, 4)
    model = calibrated(Two(), x, y)
    exported = manager.export(
        model,
        (x, y),
        kwargs={"factor": 2.0},
        input_names=["left", "right"],
        output_names=["sum"],
    )
    assert [item.name for item in exported.graph.output] == ["sum"]
    x, y = torch.randn(2, 5, 4)
    torch.testing.assert_close(run(exported, x, y), model(x, y, factor=2.0), **CLOSE)


def test_open_batch() -> None:
    torch.manual_seed(0)
    model = calibrated(QuantLinear(4, 3, input_quant=Int8ActPerTensorFloat), torch.randn(5, 4))
    batch = torch.export.Dim("batch", min=2)
    exported = StdQCDQONNXManager.export(model, torch.randn(5, 4), dynamic_shapes=({0: batch},))
    x = torch.randn(7, 4)
    torch.testing.assert_close(run_onnxruntime(exported, x), model(x), **CLOSE)


@pytest.mark.parametrize(("manager", "run"), FORMATS)
def test_quant_tensor_input(manager: Any, run: Run) -> None:
    torch.manual_seed(0)
    q = calibrated(QuantIdentity(return_quant_tensor=True), torch.randn(2, 4))(torch.randn(2, 4))
    layer = QuantLinear(4, 3, bias_quant=Int32Bias, return_quant_tensor=True).eval()
    exported = manager.export(layer, input_t=q)
    assert len(exported.graph.input) == 1
    torch.testing.assert_close(run(exported, q.value), layer(q).value, **CLOSE)


@pytest.mark.parametrize(("manager", "run"), FORMATS)
def test_half_precision(manager: Any, run: Run) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4).half()
    model = calibrated(QuantLinear(4, 3, input_quant=Int8ActPerTensorFloat).half(), x)
    # One step of float16 around 1 is 2**-10.
    torch.testing.assert_close(run(manager.export(model, x), x), model(x), rtol=0, atol=2**-9)


@pytest.mark.parametrize("opset", [17, 18, 21])
def test_opset_is_the_one_asked_for(opset: int) -> None:
    model = calibrated(QuantIdentity(), torch.ones(2))
    exported = StdQCDQONNXManager.export(model, torch.ones(2), opset_version=opset)
    assert [item.version for item in exported.opset_import] == [opset]


def test_nodes_and_constants_carry_the_names_of_proxies() -> None:
    model = nn.Sequential(QuantLinear(4, 3, weight_bit_width=4)).eval()
    exported = StdQCDQONNXManager.export(model, torch.ones(1, 4))
    names = {item.name for item in exported.graph.initializer}
    assert {"0.weight_quant.integers", "0.weight_quant.scale", "0.bias"} <= names
    assert exported.graph.node[0].name.startswith("0.weight_quant/Clip")
    notes = [note.key for node in exported.graph.node for note in node.metadata_props]
    assert not any("stack_trace" in key for key in notes)


def test_a_branch_on_values_names_the_layer(tmp_path: Path) -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.sum()) > 0 else -x

    model = calibrated(nn.Sequential(QuantIdentity(), Branch()), torch.ones(2))
    with pytest.raises(ExportError, match=r"tracing failed.*Layer: 1"):
        QONNXManager.export(model, torch.ones(2), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_lost_quantizer_is_an_error(tmp_path: Path) -> None:
    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.lost = QuantLinear(2, 2), QuantLinear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.lost(x)
            return self.used(x)

    with pytest.raises(ExportError, match=r"not in the exported graph.*lost\.weight_quant"):
        QONNXManager.export(Dropped().eval(), torch.ones(1, 2), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


# 2026-11: torch.compile uses TorchScript where it is first imported.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize(("manager", "run"), FORMATS)
def test_a_compiled_model_is_exported_as_written(manager: Any, run: Run) -> None:
    x = torch.randn(2, 4)
    model = calibrated(QuantLinear(4, 3, input_quant=Int8ActPerTensorFloat), x)
    compiled: Any = torch.compile(model)
    torch.testing.assert_close(run(manager.export(compiled, x), x), model(x), **CLOSE)


@pytest.mark.parametrize(("manager", "run"), FORMATS)
def test_a_model_that_keeps_state_is_refused(manager: Any, run: Run, tmp_path: Path) -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x * self.calls

    with pytest.raises(ExportError, match="changes the buffer '0.calls'"):
        manager.export(nn.Sequential(Counter()), torch.ones(2), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named_before_anything_runs(tmp_path: Path) -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("ran")

    with pytest.raises(FileNotFoundError, match="no folder .*nowhere.*create it first"):
        QONNXManager.export(Fails(), torch.ones(2), tmp_path / "nowhere" / "model.onnx")


def test_a_file_that_is_open() -> None:
    stream = io.BytesIO()
    exported = QONNXManager.export(nn.ReLU(), torch.ones(2), stream)
    assert stream.getvalue() == exported.SerializeToString()


def test_the_old_exporter_is_not_offered() -> None:
    with pytest.warns(UserWarning, match="dynamo=False has no effect"):
        model = calibrated(QuantIdentity(), torch.ones(2))
        exported = QONNXManager.export(model, torch.ones(2), dynamo=False)
    assert operators(exported) == ["qonnx.custom_op.general::Quant"]
