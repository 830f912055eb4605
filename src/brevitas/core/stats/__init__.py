"""Statistics of tensors, from which scales and zero points are taken.

Layer: core (L3).
"""

from __future__ import annotations

from brevitas.core.stats.stats_op import (
    MSE,
    AbsAve,
    AbsMax,
    AbsMaxAve,
    AbsMaxL2,
    AbsMinMax,
    AbsPercentile,
    HalfQuadraticOptimizerScale,
    HalfQuadraticOptimizerZeroPoint,
    KLMinimizerThreshold,
    L1Norm,
    L2Norm,
    MeanLearnedSigmaStd,
    MeanSigmaStd,
    MSEUniformStepBase,
    NegativeMinOrZero,
    NegativePercentileOrZero,
    PercentileInterval,
    SignedAbsMax,
)
from brevitas.core.stats.stats_wrapper import DEFAULT_MOMENTUM, SCALAR_SHAPE
from brevitas.inject.enum import StatsOp

__all__ = [
    "DEFAULT_MOMENTUM",
    "MSE",
    "SCALAR_SHAPE",
    "AbsAve",
    "AbsMax",
    "AbsMaxAve",
    "AbsMaxL2",
    "AbsMinMax",
    "AbsPercentile",
    "HalfQuadraticOptimizerScale",
    "HalfQuadraticOptimizerZeroPoint",
    "KLMinimizerThreshold",
    "L1Norm",
    "L2Norm",
    "MSEUniformStepBase",
    "MeanLearnedSigmaStd",
    "MeanSigmaStd",
    "NegativeMinOrZero",
    "NegativePercentileOrZero",
    "PercentileInterval",
    "SignedAbsMax",
    "StatsOp",
]
