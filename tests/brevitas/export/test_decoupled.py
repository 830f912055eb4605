"""Decoupled weights in every format: files hold their quantized values, whatever the pre-scale."""

from __future__ import annotations

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
from brevitas.quant import (
    Int4WeightPerTensorFloatDecoupled,
    Int8AccumulatorAwareWeightQuant,
    Int8AccumulatorAwareZeroCenterWeightQuant,
    Int8ActPerTensorFloat,
    Int8WeightNormL2PerChannelFixedPoint,
    Int8WeightPerChannelFloatDecoupled,
    Int32Bias,
)
from brevitas.quant.fixed_point import Int4WeightPerTensorFixedPointDecoupled
from export_runtime import initializers, run_onnxruntime, run_qonnx

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

AWARE = [Int8AccumulatorAwareWeightQuant, Int8AccumulatorAwareZeroCenterWeightQuant]
DECOUPLED = [
    Int4WeightPerTensorFixedPointDecoupled,
    Int4WeightPerTensorFloatDecoupled,
    Int8WeightNormL2PerChannelFixedPoint,
    Int8WeightPerChannelFloatDecoupled,
    *AWARE,
]
# Two runtimes sum up products of float32 in different orders.
ROUNDING = {"rtol": 1e-5, "atol": 1e-6}
# TorchScript is what the format is made of.
in_script = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning"
)
every_quantizer = pytest.mark.parametrize("weight_quant", DECOUPLED, ids=lambda q: q.__name__)


def _keywords(weight_quant: Any) -> dict[str, Any]:
    aware = {"weight_accumulator_bit_width": 14} if weight_quant in AWARE else {}
    return {"weight_quant": weight_quant, "bias_quant": Int32Bias, **aware}


def trained(model: nn.Module, x: Tensor) -> nn.Module:
    """The model in evaluation, after a step that moves its scales apart."""
    model.train()(x).square().sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(0.05 * parameter.grad / (1e-9 + parameter.grad.abs().max()))
    return model.eval()


def convolutions(weight_quant: Any) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    keywords = _keywords(weight_quant)
    model = nn.Sequential(
        qnn.QuantConv2d(3, 4, 3, input_quant=Int8ActPerTensorFloat, **keywords),
        qnn.QuantReLU(bit_width=4, return_quant_tensor=True),
        qnn.QuantConvTranspose2d(4, 2, 3, **keywords),
    )
    x = torch.randn(2, 3, 6, 6)
    return trained(model, x), x, model(x).detach()


def linear(weight_quant: Any) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    act = {"input_quant": Int8ActPerTensorFloat, "output_quant": Int8ActPerTensorFloat}
    # Some processors add up two products of 8 bits in 16 bits.
    bits = {"weight_bit_width": min(7, weight_quant.bit_width)}
    model = qnn.QuantLinear(6, 4, **act, **bits, **_keywords(weight_quant))
    x = torch.randn(3, 6)
    return trained(model, x), x, model(x).detach()


def _integers_in(exported: Any, weight: Any) -> Tensor:
    shape = weight.value.shape
    return next(c for c in initializers(exported).values() if c.shape == shape)


@every_quantizer
def test_qonnx(weight_quant: Any) -> None:
    model, x, y = convolutions(weight_quant)
    exported = export_qonnx(model, x)
    torch.testing.assert_close(run_qonnx(exported, x), y, **ROUNDING)


@in_script
@every_quantizer
@pytest.mark.parametrize("keeps_float", [False, True])
def test_qcdq(weight_quant: Any, keeps_float: bool) -> None:
    model, x, y = convolutions(weight_quant)
    exported = export_onnx_qcdq(model, x, export_weight_q_node=keeps_float)
    torch.testing.assert_close(run_onnxruntime(exported, x), y, **ROUNDING)
    torch.testing.assert_close(export_torch_qcdq(model, x)(x), y, **ROUNDING)


@every_quantizer
def test_integer_operators(weight_quant: Any) -> None:
    model, x, y = linear(weight_quant)
    # Integer operators round an output on the edge between two integers their own way.
    step = {"rtol": 0, "atol": 1.001 * float(model.output_quant.scale().detach())}
    torch.testing.assert_close(run_onnxruntime(export_onnx_qop(model, x), x), y, **step)
    torch.testing.assert_close(export_torch_qop(model, x)(x), y, **step)


@pytest.mark.parametrize("weight_quant", AWARE)
def test_files_hold_the_integers_of_the_model(weight_quant: Any) -> None:
    """Weights between two integers but for a rounding: whoever rounds them anew may overflow."""
    torch.manual_seed(0)
    model = qnn.QuantLinear(
        64, 2, bias=False, input_quant=Int8ActPerTensorFloat, **_keywords(weight_quant)
    )
    tensor_quant = model.weight_quant.tensor_quant
    with torch.no_grad():
        # One step each: 64 of them are one more than an accumulator of 14 bits allows.
        model.weight.copy_(2.0**-9 * (-1.0) ** torch.arange(64).expand(2, 64))
        for part in (tensor_quant.scaling_impl, tensor_quant.pre_scaling_impl.scaling_impl):
            part.value.fill_(-9.0)
        tensor_quant.pre_scaling_impl.value.fill_(30.0)
    x = torch.randn(3, 64)
    model(x)
    model.eval()
    integers = model.quant_weight().int()
    assert torch.equal(_integers_in(export_onnx_qcdq(model, x), model.quant_weight()), integers)
    stored = _integers_in(export_qonnx(model, x), model.quant_weight())
    assert torch.equal(stored, model.quant_weight().value.detach())
    torch.testing.assert_close(run_qonnx(export_qonnx(model, x), x), model(x).detach(), **ROUNDING)
