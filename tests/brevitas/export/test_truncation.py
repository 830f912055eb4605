"""Truncated and clamped accumulators in every export format, run in the programs that read it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from brevitas.core.function_wrapper import RoundSte
from brevitas.export import (
    export_onnx_qcdq,
    export_onnx_qop,
    export_qonnx,
    export_torch_qcdq,
)
from brevitas.export.common.spec import ExportError
from brevitas.export.inference import quant_inference_mode
from brevitas.nn import (
    ClampQuantAccumulator,
    QuantConv2d,
    QuantIdentity,
    QuantLinear,
    TruncAdaptiveAvgPool2d,
    TruncAvgPool2d,
    TruncQuantAccumulator,
)
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int32Bias,
    RoundTo8bit,
    ShiftRoundSaturateTo8bit,
    TruncTo8bit,
    Uint8ActPerTensorFloat,
)
from brevitas.quant.base import IntQuant
from brevitas.quant.solver import ClampQuantSolver
from export_runtime import operators, run_onnxruntime, run_qonnx

pytest.importorskip("onnxscript")

QONNX = "qonnx.custom_op.general::"
CONV: dict[str, Any] = {
    "input_quant": Int8ActPerTensorFloat,
    "bias_quant": Int32Bias,
    "return_quant_tensor": True,
}


class ClampTo8bit(IntQuant, ClampQuantSolver):
    bit_width = 8


def trained(*layers: nn.Module) -> tuple[nn.Module, Tensor, Tensor]:
    """A model that has seen data, an input, and its output."""
    torch.manual_seed(0)
    model, x = nn.Sequential(*layers), torch.randn(1, 2, 6, 6)
    with torch.no_grad():
        model.train()(x)
        y = model.eval()(x)
    return model, x, getattr(y, "value", y)


def pool(signed: bool = True, kind: type[nn.Module] = TruncAvgPool2d, **keywords: Any) -> Any:
    act_quant = Int8ActPerTensorFloat if signed else Uint8ActPerTensorFloat
    identity = QuantIdentity(act_quant=act_quant, return_quant_tensor=True)
    return trained(identity, kind(2, return_quant_tensor=False, **keywords))


POOLS: dict[str, dict[str, Any]] = {
    "round": {},
    "floor": {"trunc_quant": TruncTo8bit},
    "ceil": {"float_to_int_impl_type": "ceil"},
    "to zero": {"float_to_int_impl_type": "round_to_zero"},
    "narrow, 4 bits": {"bit_width": 4, "narrow_range": True},
    "learned": {"trunc_quant": ShiftRoundSaturateTo8bit},
    "unsigned": {"signed": False},
    "adaptive": {"kind": TruncAdaptiveAvgPool2d},
}


def mostly_long(names: Any, *typical: str) -> list[Any]:
    """Leave all but typical cases to the long run: each takes about a second."""
    return [
        name if name in typical else pytest.param(name, marks=pytest.mark.long) for name in names
    ]


@pytest.mark.parametrize("name", mostly_long(POOLS, "floor"))
def test_qonnx(name: str) -> None:
    """One node of the version that means the same, equal in QONNX's executor to the last bit."""
    model, x, y = pool(**POOLS[name])
    exported = export_qonnx(model, x)
    assert operators(exported)[-1] == QONNX + "Trunc" and len(exported.graph.node) == 3
    node = exported.graph.node[-1]
    attributes = {item.name: item.s.decode() if item.s else item.i for item in node.attribute}
    assert attributes["signed"] == POOLS[name].get("signed", True)
    assert attributes["narrow"] == POOLS[name].get("narrow_range", False)
    assert {item.domain: item.version for item in exported.opset_import}[QONNX[:-2]] == 2
    for generator in range(3):
        x = torch.randn(x.shape, generator=torch.Generator().manual_seed(generator)) * 2
        assert torch.equal(run_qonnx(exported, x), model(x))


@pytest.mark.parametrize("name", mostly_long(POOLS, "narrow, 4 bits"))
def test_qcdq(name: str) -> None:
    """The shift is stated in standard operators; ONNX Runtime finds the same integers."""
    model, x, y = pool(**POOLS[name])
    exported = export_onnx_qcdq(model, x)
    assert operators(exported)[-1] == "DequantizeLinear"
    for generator in range(3):
        x = torch.randn(x.shape, generator=torch.Generator().manual_seed(generator)) * 2
        assert torch.equal(run_onnxruntime(exported, x), model(x))


@pytest.mark.parametrize("name", mostly_long(["floor", "round"], "floor"))
def test_the_older_meaning(name: str) -> None:
    """Average, times the size of the window, and ``Trunc`` of version 1: as older files have it."""
    model, x, y = pool(**POOLS[name], keeps_scale=True)
    exported = export_qonnx(model, x)
    clip = [] if name == "floor" else ["Clip"]
    expected = [QONNX + "Quant", "AveragePool", "Mul", QONNX + "Trunc", *clip]
    assert operators(exported) == expected
    (node,) = [node for node in exported.graph.node if node.op_type == "Trunc"]
    assert len(node.input) == 5 and [item.name for item in node.attribute] == ["rounding_mode"]
    assert {item.domain: item.version for item in exported.opset_import}[QONNX[:-2]] == 1
    assert torch.equal(run_qonnx(exported, x), y)
    assert torch.equal(run_onnxruntime(export_onnx_qcdq(model, x), x), y)


def test_both_meanings_in_one_file_are_refused() -> None:
    model, x, _ = trained(
        QuantIdentity(return_quant_tensor=True),
        TruncAvgPool2d(2, trunc_quant=TruncTo8bit, keeps_scale=True),
        TruncAdaptiveAvgPool2d(1, return_quant_tensor=False),
    )
    message = "version 2 of .* is needed here, version 1 in 1.trunc_quant.*Layer: 2.trunc_quant"
    with pytest.raises(ExportError, match=message):
        export_qonnx(model, x)
    assert torch.equal(run_onnxruntime(export_onnx_qcdq(model, x), x), model(x))


def accumulator(kind: str) -> Any:
    if kind == "trunc":
        conv = QuantConv2d(2, 3, 3, weight_scaling_per_output_channel=True, **CONV)
        last = TruncQuantAccumulator(trunc_quant=RoundTo8bit, return_quant_tensor=False)
        return trained(conv, last)
    last = ClampQuantAccumulator(clamp_quant=ClampTo8bit, return_quant_tensor=False)
    return trained(QuantConv2d(2, 3, 3, **CONV), last)


@pytest.mark.parametrize("kind", mostly_long(["trunc", "clamp"], "trunc"))
def test_accumulators_of_a_layer(kind: str) -> None:
    model, x, y = accumulator(kind)
    exported = export_qonnx(model, x)
    assert operators(exported)[-2:] == ["Conv", QONNX + ("Trunc" if kind == "trunc" else "Quant")]
    # The sums of a convolution come in another order; a result on the edge may go either way.
    proxy = model[1].trunc_quant if kind == "trunc" else model[1].clamp_quant
    step = float(proxy.scale().max())
    for exporter, run in ((export_qonnx, run_qonnx), (export_onnx_qcdq, run_onnxruntime)):
        distance = (run(exporter(model, x), x) - y).abs()
        assert float(distance.max()) <= 1.0001 * step
        assert float((distance > 1e-4 * step).float().mean()) < 0.05


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::Warning")
def test_torchscript() -> None:
    for model, x, y in (pool(), accumulator("trunc"), accumulator("clamp")):
        assert torch.equal(export_torch_qcdq(model, x)(x), y)


def test_integer_operators_between_layers() -> None:
    """A pool stands between integer layers; an accumulator that is no layer's output is refused."""
    conv = QuantConv2d(2, 3, 3, output_quant=Int8ActPerTensorFloat, **CONV)
    head = QuantLinear(12, 3, bias_quant=Int32Bias, output_quant=Int8ActPerTensorFloat)
    pools = TruncAvgPool2d(2, trunc_quant=TruncTo8bit)
    model, x, y = trained(conv, pools, nn.Flatten(), head)
    exported = export_onnx_qop(model, x)
    assert operators(exported).count("QLinearConv") == 2
    step = float(head.output_quant.scale())
    assert float((run_onnxruntime(exported, x) - y).abs().max()) <= 1.0001 * step
    model, x, _ = accumulator("trunc")
    with pytest.raises(ExportError, match="needs an output quantizer.*Layer: 0"):
        export_onnx_qop(model, x)


def test_what_a_format_cannot_hold_is_refused() -> None:
    model, x, _ = pool(float_to_int_impl_type="dpu")
    for exporter in (export_qonnx, export_onnx_qcdq):
        with pytest.raises(ExportError, match=r"rounding_mode='DPU'.*Layer: 1\.trunc_quant"):
            exporter(model, x)
    model, x, _ = pool(bit_width=12)
    with pytest.raises(ExportError, match=r"bit_width=12.*opset_version=21.*Layer: 1\.trunc_quant"):
        export_onnx_qcdq(model, x)
    assert torch.equal(run_onnxruntime(export_onnx_qcdq(model, x, opset_version=21), x), model(x))


class Shifted(RoundSte):
    """A rounding of a user's own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


@pytest.mark.parametrize("exporter", [export_qonnx, export_onnx_qcdq])
def test_a_truncation_that_does_something_else_is_refused(exporter: Any) -> None:
    model, x, _ = pool()
    model[1].trunc_quant.tensor_quant.trunc_scaling_impl = ThreeSteps()
    with pytest.raises(ExportError, match=r"computes something else|whole"):
        export_qonnx(model, x)
    model[1].trunc_quant.tensor_quant.float_to_int_impl = Shifted()
    with pytest.raises(ExportError, match=r"rounding_mode='Shifted'.*Layer: 1\.trunc_quant"):
        exporter(model, x)


class ThreeSteps(nn.Module):
    """Not a power of two, which QONNX takes it for."""

    def forward(self, *arguments: Any) -> Tensor:
        return torch.tensor(3.0)


@pytest.mark.parametrize("kind", ["trunc", "clamp"])
def test_inference_mode_keeps_the_values(kind: str) -> None:
    model, x, y = accumulator(kind)
    with torch.no_grad(), quant_inference_mode(model, cache_quant_weight=True):
        assert torch.equal(model(x), y)


def test_every_integer_of_the_accumulator() -> None:
    """Each integer of 10 bits, through a truncation in the file: no rounding of a sum hides one."""
    identity = QuantIdentity(bit_width=10, return_quant_tensor=True)
    last = TruncQuantAccumulator(trunc_quant=RoundTo8bit, return_quant_tensor=False)
    model, _, _ = trained(identity, last)
    scale = float(identity.act_quant.scale())
    x = torch.arange(-512, 512).reshape(1, 2, 16, 32) * scale
    assert torch.equal(run_qonnx(export_qonnx(model, x), x), model(x))
    exported = export_onnx_qcdq(model, x, opset_version=21)
    assert torch.equal(run_onnxruntime(exported, x), model(x))
