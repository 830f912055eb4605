"""The closed choices of which quantizers are declared. Layer: inject.enum (L0).

Each member's value is its name, and a member equals the string that names it.
"""

from __future__ import annotations

from enum import auto

from brevitas.utils.python_utils import AutoName

__all__ = [
    "BitWidthImplType",
    "FloatToIntImplType",
    "LearnedRoundImplType",
    "QuantType",
    "RestrictValueType",
    "ScalingImplType",
    "ScalingPerOutputType",
    "StatsOp",
    "TruncScalingImplType",
]


class QuantType(AutoName):
    """What a tensor is quantized to; `FP` leaves it in floating point."""

    BINARY = auto()
    TERNARY = auto()
    INT = auto()
    FP = auto()


class BitWidthImplType(AutoName):
    """Where the bit width comes from: fixed, learned, or fixed but stored in checkpoints."""

    CONST = auto()
    PARAMETER = auto()
    STATEFUL_CONST = auto()


class ScalingImplType(AutoName):
    """Where the scale comes from.

    `HE` the weight's initialization variance, `CONST` a fixed number, `STATS` statistics of the
    tensor in every forward, `AFFINE_STATS` those with a learned factor and offset, `PARAMETER` a
    learned parameter, `PARAMETER_FROM_STATS` a learned parameter initialized from statistics.
    """

    HE = auto()
    CONST = auto()
    STATS = auto()
    AFFINE_STATS = auto()
    PARAMETER = auto()
    PARAMETER_FROM_STATS = auto()


class ScalingPerOutputType(AutoName):
    """How many scales there are: one, one per output channel, or one per group of elements."""

    TENSOR = auto()
    CHANNEL = auto()
    GROUP = auto()


class TruncScalingImplType(AutoName):
    """How truncation picks the output scale: keep the top bits, or use a scaling of its own."""

    MSB = auto()
    WRAPPER = auto()


class StatsOp(AutoName):
    """The statistic from which a scale or a zero point is computed."""

    MAX = auto()
    AVE = auto()
    MAX_AVE = auto()
    MEAN_SIGMA_STD = auto()
    MEAN_LEARN_SIGMA_STD = auto()
    PERCENTILE = auto()
    MIN_MAX = auto()
    PERCENTILE_INTERVAL = auto()
    SIGNED_MAX = auto()


class RestrictValueType(AutoName):
    """The values that a scale may take.

    `FP` positive floats, `SIGNED_FP` any float, `LOG_FP` floats learned as their logarithm, `INT`
    integers, `POWER_OF_TWO` powers of two.
    """

    FP = auto()
    SIGNED_FP = auto()
    LOG_FP = auto()
    INT = auto()
    POWER_OF_TWO = auto()


class FloatToIntImplType(AutoName):
    """How real numbers become integers.

    `DPU` rounds halves up for negative numbers, too; `LEARNED_ROUND` learns up or down for each
    weight; `STOCHASTIC_ROUND` rounds up with the probability of the fraction.
    """

    ROUND = auto()
    CEIL = auto()
    FLOOR = auto()
    ROUND_TO_ZERO = auto()
    DPU = auto()
    LEARNED_ROUND = auto()
    STOCHASTIC_ROUND = auto()


class LearnedRoundImplType(AutoName):
    """How learned rounding maps its parameter to a fraction between 0 and 1."""

    HARD_SIGMOID = auto()
    SIGMOID = auto()
    IDENTITY = auto()
