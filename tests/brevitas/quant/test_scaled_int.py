"""Scales of the predefined integer quantizers, against their formulas on a layer's tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import brevitas.nn as qnn
from brevitas.inject import DependencyError
from brevitas.quant.scaled_int import (
    Int8ActPerTensorFloat,
    Int8ActPerTensorFloatBatchQuant1d,
    Int8ActPerTensorFloatBatchQuant2d,
    Int8ActPerTensorFloatMinMaxInit,
    Int8Bias,
    Int8BiasPerTensorFloatInternalScaling,
    Int8WeightPerChannelFloat,
    Int8WeightPerTensorFloat,
    Int16Bias,
    Int24Bias,
    Int32Bias,
    IntBias,
    Uint8ActPerTensorFloat,
    Uint8ActPerTensorFloatBatchQuant1d,
    Uint8ActPerTensorFloatBatchQuant2d,
    Uint8ActPerTensorFloatMaxInit,
)


def _quantize(x: Tensor, scale: Tensor, lower: int, upper: int) -> Tensor:
    return (x / scale).round().clamp(lower, upper) * scale


@pytest.mark.parametrize(
    "layer",
    [
        lambda **kw: qnn.QuantLinear(6, 4, **kw),
        lambda **kw: qnn.QuantConv2d(3, 4, 3, **kw),
        lambda **kw: qnn.QuantConvTranspose2d(3, 4, 3, **kw),
    ],
    ids=["linear", "conv", "transposed"],
)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights(layer: Any, bits: int) -> None:
    limit = 2 ** (bits - 1) - 1
    for quantizer in (Int8WeightPerTensorFloat, Int8WeightPerChannelFloat):
        module = layer(weight_quant=quantizer, weight_bit_width=bits)
        weight, channel = module.weight.detach(), 1 if type(module).__name__[9:10] == "T" else 0
        others = [dim for dim in range(weight.dim()) if dim != channel]
        maximum = weight.abs().max()
        if quantizer is Int8WeightPerChannelFloat:
            maximum = weight.abs().amax(others, keepdim=True)
        quantized = module.quant_weight()
        assert torch.equal(quantized.scale, maximum / limit)
        assert torch.equal(quantized.value, _quantize(weight, maximum / limit, -limit, limit))
        assert quantized.signed and quantized.zero_point.item() == 0


@pytest.mark.parametrize(
    ("quantizer", "lower", "upper", "threshold"),
    [(Int8ActPerTensorFloat, -128, 127, 128), (Uint8ActPerTensorFloat, 0, 255, 255)],
)
def test_activations_start_from_a_percentile(
    quantizer: Any, lower: int, upper: int, threshold: int
) -> None:
    quant = qnn.QuantIdentity(act_quant=quantizer, high_percentile_q=90.0, return_quant_tensor=True)
    x = torch.randn(100)
    scale = x.abs().sort()[0][89] / threshold
    assert torch.equal(quant(x).scale, scale)
    assert torch.equal(quant(x).value, _quantize(x, scale, lower, upper))


def test_activations_start_from_a_range() -> None:
    signed = Int8ActPerTensorFloatMinMaxInit
    for low, high in ((-3.5, 2.5), (-1.5, 2.5)):
        quant = qnn.QuantIdentity(act_quant=signed, min_val=low, max_val=high)
        assert quant.act_quant.scale().item() == pytest.approx(max(-low, high) / 128)
    unsigned = qnn.QuantReLU(act_quant=Uint8ActPerTensorFloatMaxInit, max_val=6.0)
    assert unsigned.act_quant.scale().item() == pytest.approx(6.0 / 255)


@pytest.mark.parametrize(
    ("quantizer", "shape", "threshold"),
    [
        (Int8ActPerTensorFloatBatchQuant1d, (4, 3, 7), 128),
        (Uint8ActPerTensorFloatBatchQuant1d, (4, 3, 7), 255),
        (Int8ActPerTensorFloatBatchQuant2d, (4, 3, 5, 6), 128),
        (Uint8ActPerTensorFloatBatchQuant2d, (4, 3, 5, 6), 255),
    ],
)
def test_activations_follow_the_batch(
    quantizer: Any, shape: tuple[int, ...], threshold: int
) -> None:
    quant = qnn.QuantIdentity(act_quant=quantizer, return_quant_tensor=True)
    scales = []
    for factor in (1.0, 3.0):
        x = torch.randn(shape) * factor
        maxima = x.abs().movedim(1, 0).flatten(1).amax(1)
        scales.append(maxima.mean() / threshold)
        torch.testing.assert_close(quant(x).scale, scales[-1])
    # No momentum is declared: evaluation uses the plain mean of the batches.
    torch.testing.assert_close(quant.eval()(x).scale, sum(scales) / 2)


@pytest.mark.parametrize(
    ("quantizer", "bits"), [(Int8Bias, 8), (Int16Bias, 16), (Int24Bias, 24), (Int32Bias, 32)]
)
def test_biases_at_the_scale_of_the_accumulator(quantizer: Any, bits: int) -> None:
    layer = qnn.QuantLinear(
        6, 4, input_quant=Int8ActPerTensorFloat, bias_quant=quantizer, return_quant_tensor=True
    )
    layer(torch.randn(5, 6))
    x = layer.input_quant(torch.randn(5, 6))
    bias = layer.bias_quant(layer.bias, x, layer.quant_weight())
    assert torch.equal(bias.scale, (x.scale * layer.quant_weight().scale).reshape(-1))
    assert bias.bit_width.item() == bits
    limits = -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1
    assert torch.equal(bias.value, _quantize(layer.bias.detach(), bias.scale, *limits))


def test_a_bias_of_any_width_has_to_say_which() -> None:
    proxy = qnn.QuantLinear(6, 4, bias_quant=IntBias.let(bit_width=12)).bias_quant
    assert proxy.tensor_quant.msb_clamp_bit_width_impl().item() == 12
    with pytest.raises(DependencyError, match="bit_width"):
        qnn.QuantLinear(6, 4, bias_quant=IntBias)


def test_a_bias_with_a_scale_of_its_own() -> None:
    layer = qnn.QuantLinear(6, 4, bias_quant=Int8BiasPerTensorFloatInternalScaling)
    bias = layer.bias_quant(layer.bias)
    assert torch.equal(bias.scale.reshape(()), layer.bias.detach().abs().max() / 128)
    assert not layer.bias_quant.requires_input_scale
