"""What a weight's quantizer knows of its layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import brevitas.nn as qnn
from brevitas.core.quant import RescalingIntQuant
from brevitas.inject import DependencyError
from brevitas.inject.enum import ScalingPerOutputType
from brevitas.quant import Int8WeightPerChannelFloat, Int8WeightPerTensorFloat
from brevitas.quant.solver import WeightQuantSolver

LAYERS = [
    (qnn.QuantLinear, (6, 4), (4, 1), 0),
    (qnn.QuantConv1d, (6, 4, 3), (4, 1, 1), 0),
    (qnn.QuantConv2d, (6, 4, 3), (4, 1, 1, 1), 0),
    (qnn.QuantConvTranspose1d, (6, 4, 3), (1, 4, 1), 1),
    (qnn.QuantConvTranspose2d, (6, 4, 3), (1, 4, 1, 1), 1),
]


@pytest.mark.parametrize(("layer", "arguments", "shape", "channel"), LAYERS)
def test_one_scale_per_output_channel(
    layer: Any, arguments: tuple[int, ...], shape: tuple[int, ...], channel: int
) -> None:
    module = layer(*arguments, weight_quant=Int8WeightPerChannelFloat)
    others = [dim for dim in range(len(shape)) if dim != channel]
    weight = module.weight.detach()
    scale = module.quant_weight().scale
    assert scale.shape == shape
    assert torch.equal(scale, weight.abs().amax(others, keepdim=True) / 127)


def test_two_layers_share_the_scales_of_their_channels() -> None:
    first = qnn.QuantLinear(6, 4, weight_quant=Int8WeightPerChannelFloat)
    second = qnn.QuantLinear(9, 4, weight_quant=first.weight_quant)
    rows = torch.cat([first.weight.detach(), second.weight.detach()], 1).abs()
    for layer in (first, second):
        assert torch.equal(layer.quant_weight().scale, rows.amax(1, keepdim=True) / 127)


def test_what_is_built() -> None:
    tensor_quant = qnn.QuantLinear(6, 4).weight_quant.tensor_quant
    assert type(tensor_quant) is RescalingIntQuant
    assert issubclass(Int8WeightPerTensorFloat, WeightQuantSolver)
    plain = qnn.QuantLinear(6, 4, weight_quant=Int8WeightPerTensorFloat.let(quant_type="fp"))
    assert plain.weight_quant.tensor_quant is None


def test_quantizers_without_enums() -> None:
    class ByParts(WeightQuantSolver):
        """Every part given as a class."""

        quant_type, bit_width_impl_type, scaling_impl_type = "int", "const", "const"
        float_to_int_impl_type, restrict_scaling_type = "round", "fp"
        zero_point_impl = Int8WeightPerTensorFloat.__declarations__["zero_point_impl"].part
        bit_width, narrow_range, signed, scaling_const = 4, False, True, 1.0

    weight = qnn.QuantLinear(6, 4, weight_quant=ByParts).quant_weight()
    assert weight.scale.item() == 1 / 8 and weight.bit_width.item() == 4


@pytest.mark.parametrize("written", ["channel", "CHANNEL", ScalingPerOutputType.CHANNEL])
def test_granularity_is_accepted_as_text_and_as_a_member(written: Any) -> None:
    weight = qnn.QuantLinear(8, 6, weight_scaling_per_output=written).quant_weight()
    assert weight.scale.shape == (6, 1)
    act = qnn.QuantIdentity(
        scaling_per_output=written,
        per_channel_broadcastable_shape=(1, 4, 1, 1),
        scaling_stats_permute_dims=(1, 0, 2, 3),
        return_quant_tensor=True,
    )
    assert act(torch.randn(2, 4, 3, 3)).scale.shape == (1, 4, 1, 1)


def test_unknown_granularity_is_refused_by_name() -> None:
    with pytest.raises(DependencyError, match="scaling_per_output='row'"):
        qnn.QuantLinear(8, 6, weight_scaling_per_output="row")
