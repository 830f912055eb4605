"""Scales of quantizers: constants, parameters and statistics. Layer: core (L3)."""

from brevitas.core.scaling.float_scaling import FloatScaling, RoundMidMaxSte
from brevitas.core.scaling.int_scaling import IntScaling, PowerOfTwoIntScaling
from brevitas.core.scaling.pre_scaling import (
    AccumulatorAwareParameterPreScaling,
    AccumulatorAwareZeroCenterParameterPreScaling,
    ParameterPreScalingWeightNorm,
)
from brevitas.core.scaling.runtime import (
    RuntimeDynamicGroupStatsScaling,
    RuntimeStatsScaling,
    StatsFromParameterScaling,
)
from brevitas.core.scaling.standalone import (
    ConstScaling,
    ParameterFromRuntimeStatsScaling,
    ParameterFromStatsFromParameterScaling,
    ParameterScaling,
    TruncMsbScaling,
    TruncScalingWrapper,
)
from brevitas.core.stats.stats_wrapper import SCALAR_SHAPE
from brevitas.inject.enum import ScalingImplType, ScalingPerOutputType

SCALING_STATS_REDUCE_DIM = 1

__all__ = [
    "SCALAR_SHAPE",
    "SCALING_STATS_REDUCE_DIM",
    "AccumulatorAwareParameterPreScaling",
    "AccumulatorAwareZeroCenterParameterPreScaling",
    "ConstScaling",
    "FloatScaling",
    "IntScaling",
    "ParameterFromRuntimeStatsScaling",
    "ParameterFromStatsFromParameterScaling",
    "ParameterPreScalingWeightNorm",
    "ParameterScaling",
    "PowerOfTwoIntScaling",
    "RuntimeDynamicGroupStatsScaling",
    "RoundMidMaxSte",
    "RuntimeStatsScaling",
    "ScalingImplType",
    "ScalingPerOutputType",
    "StatsFromParameterScaling",
    "TruncMsbScaling",
    "TruncScalingWrapper",
]
