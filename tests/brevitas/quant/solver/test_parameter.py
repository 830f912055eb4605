"""Scales of weights and biases: every kind, its start, and what shares it."""

from __future__ import annotations

from math import sqrt
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import brevitas.nn as qnn
from brevitas.core import scaling
from brevitas.core.function_wrapper import TensorClamp, TensorClampSte
from brevitas.inject import DependencyError
from brevitas.inject.enum import BitWidthImplType, FloatToIntImplType, ScalingImplType
from brevitas.quant import Int8WeightPerChannelFloat, Int8WeightPerTensorFloat
from brevitas.quant.solver.parameter import first_module

KINDS = {
    ScalingImplType.HE: scaling.ConstScaling,
    ScalingImplType.CONST: scaling.ConstScaling,
    ScalingImplType.STATS: scaling.StatsFromParameterScaling,
    ScalingImplType.AFFINE_STATS: scaling.StatsFromParameterScaling,
    ScalingImplType.PARAMETER: scaling.ParameterScaling,
    ScalingImplType.PARAMETER_FROM_STATS: scaling.ParameterFromStatsFromParameterScaling,
}
LEARNED = (
    ScalingImplType.AFFINE_STATS,
    ScalingImplType.PARAMETER,
    ScalingImplType.PARAMETER_FROM_STATS,
)
GIVEN = (ScalingImplType.CONST, ScalingImplType.PARAMETER)


def _layer(kind: ScalingImplType, **declared: Any) -> nn.Module:
    start = {"scaling_init": 0.5} if kind in GIVEN and not declared else {}
    quantizer = Int8WeightPerTensorFloat.let(scaling_impl_type=kind, **start, **declared)
    return qnn.QuantLinear(6, 4, weight_quant=quantizer)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind: ScalingImplType) -> None:
    layer = _layer(kind)
    assert type(layer.weight_quant.tensor_quant.scaling_impl) is KINDS[kind]
    largest = torch.tensor(0.5) if kind in GIVEN else layer.weight.detach().abs().max()
    if kind is ScalingImplType.HE:
        largest = torch.tensor(sqrt(2 / 6))
    torch.testing.assert_close(layer.quant_weight().scale, largest / 127)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [BitWidthImplType.CONST, BitWidthImplType.PARAMETER])
def test_a_clamp_that_suits_what_is_learned(kind: ScalingImplType, bits: BitWidthImplType) -> None:
    start = {"scaling_init": 0.5} if kind in GIVEN else {}
    layer = _layer(kind, bit_width_impl_type=bits, **start)
    learned = kind in LEARNED or bits is BitWidthImplType.PARAMETER
    clamp = layer.weight_quant.tensor_quant.int_quant.tensor_clamp_impl
    assert type(clamp) is (TensorClamp if learned else TensorClampSte)


@pytest.mark.parametrize("kind", GIVEN)
def test_starts(kind: ScalingImplType) -> None:
    for declared in (
        {"scaling_init": 0.7},
        {"scaling_init": torch.tensor(0.7)},
        {"scaling_const": 0.7},
        {"scaling_init_impl": 0.7},
    ):
        scale = _layer(kind, **declared).quant_weight().scale
        assert scale.item() == pytest.approx(0.7 / 127)


@pytest.mark.parametrize("kind", GIVEN)
def test_no_start(kind: ScalingImplType) -> None:
    with pytest.raises(DependencyError, match="needs a start value: declare `scaling_init`"):
        _layer(kind, high_percentile_q=1.0)


@pytest.mark.parametrize("init", [0.7, torch.full((4, 1), 0.7)])
def test_a_learned_scale_per_channel(init: float | Tensor) -> None:
    quantizer = Int8WeightPerChannelFloat.let(
        scaling_impl_type=ScalingImplType.PARAMETER, scaling_init=init
    )
    layer = qnn.QuantLinear(6, 4, weight_quant=quantizer)
    assert layer.weight_quant.tensor_quant.scaling_impl.value.shape == (4, 1)
    assert layer.quant_weight().scale.unique().item() == pytest.approx(0.7 / 127)


def test_affine_map_of_a_statistic() -> None:
    layer = _layer(
        ScalingImplType.AFFINE_STATS,
        scaling_affine_rescaling_init=2.0,
        scaling_affine_shifting_init=0.1,
    )
    largest = layer.weight.detach().abs().max()
    torch.testing.assert_close(layer.quant_weight().scale, (2 * largest + 0.1) / 127)


@pytest.mark.parametrize("kind", LEARNED)
def test_scales_take_the_type_of_their_parameter(kind: ScalingImplType) -> None:
    start = {"scaling_init": 0.5} if kind in GIVEN else {}
    start |= {"scaling_affine_rescaling_init": 1.0} if kind is ScalingImplType.AFFINE_STATS else {}
    quantizer = Int8WeightPerTensorFloat.let(scaling_impl_type=kind, **start)
    layer = qnn.QuantLinear(6, 4, weight_quant=quantizer, dtype=torch.float64)
    assert {p.dtype for p in layer.weight_quant.parameters()} == {torch.float64}


def test_learned_rounding_starts_at_zero_in_the_shape_of_the_weight() -> None:
    quantizer = Int8WeightPerTensorFloat.let(
        float_to_int_impl_type=FloatToIntImplType.LEARNED_ROUND,
        learned_round_impl_type="hard_sigmoid",
    )
    layer = qnn.QuantLinear(6, 4, weight_quant=quantizer)
    rounding = layer.weight_quant.tensor_quant.int_quant.float_to_int_impl
    assert rounding.value.shape == (4, 6) and not rounding.value.any()


def test_one_quantizer_for_two_layers() -> None:
    first = qnn.QuantLinear(6, 4)
    second = qnn.QuantLinear(6, 4, weight_quant=first.weight_quant)
    second.weight.data.mul_(10)
    largest = second.weight.detach().abs().max()
    for layer in (first, second):
        assert torch.equal(layer.quant_weight().scale, largest / 127)
    modules = (nn.ReLU(), nn.Tanh())
    assert first_module(modules) is modules[0] is first_module(modules[0])
