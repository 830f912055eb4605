"""A bias takes the scale of the accumulator unless it declares one of its own."""

from __future__ import annotations

import pytest
import torch

import brevitas.nn as qnn
from brevitas.core.bit_width import BitWidthConst, MsbClampBitWidth
from brevitas.core.quant import (
    PrescaledRestrictIntQuant,
    PrescaledRestrictIntQuantWithInputBitWidth,
    RescalingIntQuant,
)
from brevitas.inject import DependencyError
from brevitas.inject.enum import ScalingImplType
from brevitas.quant import Int8Bias, Int8BiasPerTensorFloatInternalScaling


def _proxy(quantizer: object) -> torch.nn.Module:
    return qnn.QuantLinear(6, 4, bias_quant=quantizer).bias_quant


def test_the_scale_decides_what_is_built() -> None:
    for quantizer, kind, needs_scale in (
        (Int8Bias, PrescaledRestrictIntQuant, True),
        (Int8BiasPerTensorFloatInternalScaling, RescalingIntQuant, False),
    ):
        proxy = _proxy(quantizer)
        assert type(proxy.tensor_quant) is kind and proxy.requires_input_scale is needs_scale


def test_bit_width_from_the_accumulator() -> None:
    removed = MsbClampBitWidth(BitWidthConst(2), 2, 32)
    quantizer = Int8Bias.let(requires_input_bit_width=True, bit_width_impl=removed)
    tensor_quant = _proxy(quantizer).tensor_quant
    assert type(tensor_quant) is PrescaledRestrictIntQuantWithInputBitWidth
    *_, bit_width = tensor_quant(torch.ones(4), torch.tensor(0.1), torch.tensor(10.0))
    assert bit_width.item() == 8.0


@pytest.mark.parametrize("per_channel", [False, True])
def test_scales_of_its_own(per_channel: bool) -> None:
    quantizer = Int8BiasPerTensorFloatInternalScaling.let(
        scaling_per_output_channel=per_channel,
        scaling_impl_type=ScalingImplType.PARAMETER,
        scaling_init=0.5,
    )
    layer = qnn.QuantLinear(6, 4, bias_quant=quantizer)
    bias = layer.bias_quant(layer.bias)
    assert bias.scale.shape == ((4,) if per_channel else ())
    assert bias.scale.unique().item() == 0.5 / 128


def test_not_quantized() -> None:
    proxy = _proxy(Int8Bias.let(quant_type="fp"))
    assert proxy.tensor_quant is None and not proxy.requires_input_scale


def test_a_type_that_does_not_exist() -> None:
    with pytest.raises(DependencyError, match="quant_type='nonsense': expected one of"):
        _proxy(Int8Bias.let(quant_type="nonsense"))
