"""Choices declared by enums or their names, and what they stand for."""

from __future__ import annotations

from enum import Enum
from typing import Any

import pytest
import torch

import brevitas.nn as qnn
from brevitas.core import bit_width, function_wrapper, restrict_val, scaling, stats
from brevitas.inject import DependencyError
from brevitas.inject.enum import (
    BitWidthImplType,
    FloatToIntImplType,
    RestrictValueType,
    ScalingImplType,
    ScalingPerOutputType,
    StatsOp,
)
from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerTensorFloat
from brevitas.quant.solver.common import as_member, choose

PARTS: dict[str, tuple[str, dict[Enum, type]]] = {
    "bit_width_impl_type": (
        "msb_clamp_bit_width_impl",
        {
            BitWidthImplType.CONST: bit_width.BitWidthConst,
            BitWidthImplType.PARAMETER: bit_width.BitWidthParameter,
            BitWidthImplType.STATEFUL_CONST: bit_width.BitWidthStatefulConst,
        },
    ),
    "float_to_int_impl_type": (
        "int_quant.float_to_int_impl",
        {
            FloatToIntImplType.ROUND: function_wrapper.RoundSte,
            FloatToIntImplType.CEIL: function_wrapper.CeilSte,
            FloatToIntImplType.FLOOR: function_wrapper.FloorSte,
            FloatToIntImplType.ROUND_TO_ZERO: function_wrapper.RoundToZeroSte,
            FloatToIntImplType.DPU: function_wrapper.DPURoundSte,
            FloatToIntImplType.STOCHASTIC_ROUND: function_wrapper.StochasticRoundSte,
        },
    ),
    "restrict_scaling_type": (
        "int_scaling_impl",
        {
            RestrictValueType.FP: scaling.IntScaling,
            RestrictValueType.LOG_FP: scaling.IntScaling,
            RestrictValueType.POWER_OF_TWO: scaling.PowerOfTwoIntScaling,
        },
    ),
}
CHOICES = [
    (name, path, member, part)
    for name, (path, table) in PARTS.items()
    for member, part in table.items()
]


def _tensor_quant(quantizer: Any) -> torch.nn.Module:
    return qnn.QuantLinear(6, 4, weight_quant=quantizer).weight_quant.tensor_quant


@pytest.mark.parametrize(("name", "path", "member", "part"), CHOICES)
def test_a_member_or_its_name_in_any_case(name: str, path: str, member: Enum, part: type) -> None:
    for choice in (member, member.name, member.name.lower()):
        tensor_quant = _tensor_quant(Int8WeightPerTensorFloat.let(**{name: choice}))
        assert type(tensor_quant.get_submodule(path)) is part


@pytest.mark.parametrize(
    ("member", "part"),
    [
        (RestrictValueType.FP, restrict_val.FloatRestrictValue),
        (RestrictValueType.LOG_FP, restrict_val.LogFloatRestrictValue),
        (RestrictValueType.INT, restrict_val.IntRestrictValue),
        (RestrictValueType.POWER_OF_TWO, restrict_val.PowerOfTwoRestrictValue),
    ],
)
def test_restrictions(member: RestrictValueType, part: type) -> None:
    tensor_quant = _tensor_quant(Int8WeightPerTensorFloat.let(restrict_scaling_type=member))
    assert part in {type(module) for module in tensor_quant.modules()}


@pytest.mark.parametrize(
    ("member", "part"),
    [
        (StatsOp.MAX, stats.AbsMax),
        (StatsOp.AVE, stats.AbsAve),
        (StatsOp.MAX_AVE, stats.AbsMaxAve),
        (StatsOp.MEAN_SIGMA_STD, stats.MeanSigmaStd),
        (StatsOp.PERCENTILE, stats.AbsPercentile),
        (StatsOp.MIN_MAX, stats.AbsMinMax),
        (StatsOp.PERCENTILE_INTERVAL, stats.PercentileInterval),
    ],
)
@pytest.mark.parametrize("granularity", [ScalingPerOutputType.TENSOR, ScalingPerOutputType.CHANNEL])
def test_statistics(member: StatsOp, part: type, granularity: ScalingPerOutputType) -> None:
    per_channel = granularity is ScalingPerOutputType.CHANNEL
    quantizer = Int8WeightPerTensorFloat.let(
        scaling_stats_op=member,
        scaling_per_output_type=granularity,
        sigma=2.0,
        high_percentile_q=99.0,
        low_percentile_q=1.0,
    )
    tensor_quant = _tensor_quant(quantizer)
    assert part in {type(module) for module in tensor_quant.modules()}
    if per_channel and member is StatsOp.MAX_AVE:  # one value for all channels, by definition
        return
    assert tensor_quant(torch.randn(4, 6))[1].shape == ((4, 1) if per_channel else ())


def test_channels_by_a_boolean() -> None:
    for per_channel, shape in ((True, (4, 1)), (False, ())):
        layer = qnn.QuantLinear(6, 4, weight_scaling_per_output_channel=per_channel)
        assert layer.quant_weight().scale.shape == shape


def test_none_stays_none() -> None:
    assert as_member(StatsOp, None, "scaling_stats_op") is None
    assert choose({StatsOp.MAX: 1}, None, "scaling_stats_op") is None


@pytest.mark.parametrize("bad", ["nonsense", 3])
def test_a_choice_that_does_not_exist(bad: object) -> None:
    with pytest.raises(DependencyError, match="scaling_impl_type=.*(nonsense|3).*expected one of"):
        _tensor_quant(Int8WeightPerTensorFloat.let(scaling_impl_type=bad))


def test_a_choice_that_is_not_available_here() -> None:
    with pytest.raises(DependencyError, match="HE.*not available here, expected one of CONST"):
        qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat.let(scaling_impl_type=ScalingImplType.HE))
