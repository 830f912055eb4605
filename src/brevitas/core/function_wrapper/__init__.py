"""Functions as modules, so that a quantizer can be assembled from them.

Layer: core (L3).
"""

from __future__ import annotations

from brevitas.core.function_wrapper.clamp import ClampMin, FloatClamp, ScalarClamp, TensorClamp
from brevitas.core.function_wrapper.learned_round import LearnedRoundSte
from brevitas.core.function_wrapper.misc import Abs, Identity, InplaceLogTwo, LogTwo, PowerOfTwo
from brevitas.core.function_wrapper.ops_ste import (
    CeilSte,
    DPURoundSte,
    FloorSte,
    InplaceTensorClampSte,
    RoundSte,
    RoundToZeroSte,
    ScalarClampMinSte,
    ScalarClampSte,
    ScalarSignedClampMinSte,
    TensorClampSte,
)
from brevitas.core.function_wrapper.shape import (
    OverBatchOverOutputChannelView,
    OverBatchOverTensorView,
    OverOutputChannelView,
    OverTensorView,
    StatsInputViewShapeImpl,
)
from brevitas.core.function_wrapper.stochastic_round import StochasticRoundSte

__all__ = [
    "Abs",
    "CeilSte",
    "ClampMin",
    "DPURoundSte",
    "FloatClamp",
    "FloorSte",
    "Identity",
    "InplaceLogTwo",
    "InplaceTensorClampSte",
    "LearnedRoundSte",
    "LogTwo",
    "OverBatchOverOutputChannelView",
    "OverBatchOverTensorView",
    "OverOutputChannelView",
    "OverTensorView",
    "PowerOfTwo",
    "RoundSte",
    "RoundToZeroSte",
    "ScalarClamp",
    "ScalarClampMinSte",
    "ScalarClampSte",
    "ScalarSignedClampMinSte",
    "StatsInputViewShapeImpl",
    "StochasticRoundSte",
    "TensorClamp",
    "TensorClampSte",
]
