"""The public list of statistics from which scales and zero points are taken.

Layer: core (L3).
"""

from __future__ import annotations

from brevitas.core.stats._absmax import (
    AbsMax,
    AbsMaxAve,
    AbsMaxL2,
    AbsMinMax,
    NegativeMinOrZero,
    SignedAbsMax,
)
from brevitas.core.stats._average import (
    DEFAULT_STD_DEV_EPSILON,
    AbsAve,
    L1Norm,
    L2Norm,
    MeanLearnedSigmaStd,
    MeanSigmaStd,
)
from brevitas.core.stats._hqo import (
    HalfQuadraticOptimizerScale,
    HalfQuadraticOptimizerZeroPoint,
    shrink_lp_op,
)
from brevitas.core.stats._kl import KLMinimizerThreshold
from brevitas.core.stats._mse import MSE, MSEUniformStepBase
from brevitas.core.stats._percentile import (
    AbsPercentile,
    NegativePercentileOrZero,
    PercentileInterval,
)
from brevitas.core.stats._registry import SIGNEDNESS_STATS, register_stats_implementation
from brevitas.core.stats._search import mse_fib_search, mse_grid_search
from brevitas.core.stats._selection import masked_median
from brevitas.core.stats.stats_wrapper import SCALAR_SHAPE

__all__ = [
    "DEFAULT_STD_DEV_EPSILON",
    "MSE",
    "SCALAR_SHAPE",
    "SIGNEDNESS_STATS",
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
    "masked_median",
    "mse_fib_search",
    "mse_grid_search",
    "register_stats_implementation",
    "shrink_lp_op",
]
