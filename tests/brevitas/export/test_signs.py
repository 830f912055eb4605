"""Binary and ternary quantizers in every format: written and run, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import brevitas.nn as qnn
from brevitas.export import (
    export_onnx_qcdq,
    export_onnx_qop,
    export_qonnx,
    export_torch_qcdq,
    export_torch_qop,
)
from brevitas.export.common.rounding import is_faithful
from brevitas.export.common.spec import ExportError, QuantSpec
from brevitas.export.onnx.qonnx.handler import QONNXWeightHandler
from brevitas.inject.enum import QuantType, RestrictValueType, ScalingImplType, StatsOp
from brevitas.proxy.runtime_quant import DynamicActQuantProxyFromInjector
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8WeightPerTensorFloat,
    Int32Bias,
    SignedBinaryActPerTensorConst,
    SignedBinaryWeightPerTensorConst,
    SignedTernaryActPerTensorConst,
    SignedTernaryWeightPerTensorConst,
    Uint8ActPerTensorFloat,
)
from brevitas.quant.solver import ActQuantSolver, WeightQuantSolver
from export_runtime import initializers, operators, run_onnxruntime, run_qonnx

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

BIPOLAR, QUANT = (f"qonnx.custom_op.general::{name}" for name in ("BipolarQuant", "Quant"))
# Two runtimes sum up products of float32 in different orders.
ROUNDING = {"rtol": 1e-5, "atol": 1e-6}
# TorchScript is what the format is made of.
in_script = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning"
)


class PerChannelWeight(WeightQuantSolver):
    """Signs, and the mean magnitude of each output channel."""

    quant_type = QuantType.BINARY
    scaling_impl_type = ScalingImplType.STATS
    scaling_stats_op = StatsOp.AVE
    restrict_scaling_type = RestrictValueType.FP
    scaling_per_output_channel = True


class TernaryWeight(WeightQuantSolver):
    quant_type = QuantType.TERNARY
    scaling_impl_type = ScalingImplType.CONST
    restrict_scaling_type = RestrictValueType.FP
    scaling_const = 0.2
    threshold = 0.7


class TernaryAct(ActQuantSolver):
    quant_type = QuantType.TERNARY
    scaling_impl_type = ScalingImplType.CONST
    restrict_scaling_type = RestrictValueType.FP
    min_val, max_val, threshold = -1.0, 1.0, 0.7


class DynamicBinaryAct(ActQuantSolver):
    quant_type = QuantType.BINARY
    scaling_impl_type = ScalingImplType.STATS
    scaling_stats_op = StatsOp.AVE
    restrict_scaling_type = RestrictValueType.FP
    proxy_class = DynamicActQuantProxyFromInjector


def identity(act_quant: Any, **keywords: Any) -> nn.Module:
    return qnn.QuantIdentity(act_quant=act_quant, **keywords)


def linear(weight_quant: Any, **keywords: Any) -> nn.Module:
    return qnn.QuantLinear(6, 4, weight_quant=weight_quant, **keywords)


def prepared(build: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor, Tensor]:
    """A seeded model, its input, and its output in evaluation."""
    torch.manual_seed(0)
    model, x = build(), torch.randn(3, 6)
    model.train()(x)
    return model.eval(), x, model(x).detach()


def network() -> nn.Module:
    """Signs from end to end, as accelerators for binary networks take them."""
    weights = {"bias": False, "weight_quant": SignedBinaryWeightPerTensorConst}
    return nn.Sequential(
        identity(SignedBinaryActPerTensorConst),
        qnn.QuantLinear(6, 5, **weights),
        nn.BatchNorm1d(5),
        identity(SignedBinaryActPerTensorConst),
        qnn.QuantLinear(5, 3, **weights),
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "activation": (lambda: identity(SignedBinaryActPerTensorConst), [BIPOLAR]),
    "dynamic": (lambda: identity(DynamicBinaryAct), []),
    "weight": (lambda: linear(SignedBinaryWeightPerTensorConst), [BIPOLAR, "Gemm"]),
    "per channel": (lambda: linear(PerChannelWeight), [BIPOLAR, "Gemm"]),
    "network": (network, [BIPOLAR, BIPOLAR, "Gemm", "BatchNormalization"] + 2 * [BIPOLAR]),
    "ternary activation": (lambda: identity(SignedTernaryActPerTensorConst), [QUANT]),
    "ternary weight": (lambda: linear(SignedTernaryWeightPerTensorConst), [QUANT, "Gemm"]),
    "ternary by threshold": (lambda: linear(TernaryWeight), [QUANT, "Gemm"]),
    "ternary by half": (lambda: identity(TernaryAct.let(threshold=0.5)), [QUANT]),
    "unsigned": (lambda: identity(Uint8ActPerTensorFloat, bit_width=1), [QUANT]),
}


@pytest.mark.parametrize("name", MODELS)
def test_qonnx(name: str) -> None:
    build, nodes = MODELS[name]
    model, x, y = prepared(build)
    exported = export_qonnx(model, x)
    found = operators(exported)
    assert found[: len(nodes)] == nodes and (BIPOLAR in found or QUANT in found)
    torch.testing.assert_close(run_qonnx(exported, x), y, **ROUNDING)


def test_qonnx_keeps_the_float_weight() -> None:
    model, x, _ = prepared(MODELS["weight"][0])
    constants = initializers(export_qonnx(model, x)).values()
    assert any(torch.equal(constant, model.weight.detach()) for constant in constants)


@in_script
@pytest.mark.parametrize(
    "name", ["weight", "per channel", "ternary weight", "ternary by threshold"]
)
def test_qcdq_holds_weights_as_integers(name: str) -> None:
    model, x, y = prepared(MODELS[name][0])
    exported = export_onnx_qcdq(model, x)
    integers = [c for c in initializers(exported).values() if c.shape == model.weight.shape]
    assert integers[0].dtype is torch.int8
    assert torch.equal(integers[0], model.quant_weight().int())
    torch.testing.assert_close(run_onnxruntime(exported, x), y, **ROUNDING)
    torch.testing.assert_close(export_torch_qcdq(model, x)(x), y, **ROUNDING)


@in_script
@pytest.mark.parametrize("name", ["ternary activation", "ternary by half"])
def test_qcdq_of_a_ternary_activation(name: str) -> None:
    model, x, y = prepared(MODELS[name][0])
    assert torch.equal(run_onnxruntime(export_onnx_qcdq(model, x), x), y)
    assert torch.equal(export_torch_qcdq(model, x)(x), y)


@pytest.mark.parametrize(
    "weight_quant", [SignedBinaryWeightPerTensorConst, SignedTernaryWeightPerTensorConst]
)
def test_integer_operators_take_the_weights(weight_quant: Any) -> None:
    keywords = {
        "input_quant": Int8ActPerTensorFloat,
        "output_quant": Int8ActPerTensorFloat,
        "bias_quant": Int32Bias,
    }
    model, x, y = prepared(lambda: linear(weight_quant, **keywords))
    # Integer operators round an output on the edge between two integers their own way.
    step = {"rtol": 0, "atol": 1.001 * float(model.output_quant.scale().detach())}
    torch.testing.assert_close(run_onnxruntime(export_onnx_qop(model, x), x), y, **step)
    torch.testing.assert_close(export_torch_qop(model, x)(x), y, **step)


FORMATS = [export_onnx_qcdq, export_onnx_qop, export_torch_qcdq, export_torch_qop]


@pytest.mark.parametrize("export", FORMATS)
@pytest.mark.parametrize("name", ["activation", "dynamic"])
def test_a_binary_activation_is_refused_where_there_is_no_node(export: Any, name: str) -> None:
    model, x, _ = prepared(MODELS[name][0])
    message = r"bit_width=1: .*zero between -1 and 1; use export_qonnx.*Layer: act_quant"
    with pytest.raises(ExportError, match=message):
        export(model, x)


def test_a_binary_weight_that_stays_float_is_refused() -> None:
    model, x, _ = prepared(MODELS["weight"][0])
    with pytest.raises(ExportError, match=r"bit_width=1: .*Layer: weight_quant"):
        export_onnx_qcdq(model, x, export_weight_q_node=True)


@pytest.mark.parametrize("export", [export_qonnx, *FORMATS])
def test_a_threshold_has_no_node(export: Any) -> None:
    model, x, _ = prepared(lambda: identity(TernaryAct))
    with pytest.raises(ExportError, match=r"THRESHOLD.*set threshold=0\.5.*Layer: act_quant"):
        export(model, x)


ONE_BIT = {
    "act_quant": lambda: identity(Int8ActPerTensorFloat, bit_width=1),
    "weight_quant": lambda: linear(
        Int8WeightPerTensorFloat, weight_bit_width=1, weight_narrow_range=False
    ),
}


@pytest.mark.parametrize("name", ONE_BIT)
def test_one_bit_of_twos_complement_is_no_sign(name: str) -> None:
    model, x, y = prepared(ONE_BIT[name])
    with pytest.raises(ExportError, match=rf"reads a signed .* as -1 and 1.*Layer: {name}"):
        export_qonnx(model, x)
    torch.testing.assert_close(run_onnxruntime(export_onnx_qcdq(model, x), x), y, **ROUNDING)


def test_a_sign_has_no_edge_to_excuse_a_difference() -> None:
    spec = QuantSpec(1.0, 0.0, 1, True, True)
    x = torch.tensor([-1.0, 0.0, 0.5, 1.0])
    assert is_faithful(x, torch.tensor([-1.0, 1.0, 1.0, 1.0]), spec)
    for place in range(4):
        value = torch.tensor([-1.0, 1.0, 1.0, 1.0])
        value[place] *= -1
        assert not is_faithful(x, value, spec)
    handler = QONNXWeightHandler()
    data, _ = handler.constant(x, torch.tensor([-1.0, -1.0, 1.0, 1.0]), handler.plan(spec))
    assert data.tolist() == [-1.0, -1.0, 1.0, 1.0]
