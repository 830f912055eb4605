"""Integer quantizers with a floating-point scale. Layer: quant (L5)."""

from __future__ import annotations

from typing import Any

from brevitas.core.function_wrapper import TensorClamp
from brevitas.quant.base import (
    BatchQuantStatsScaling1d,
    BatchQuantStatsScaling2d,
    IntQuant,
    MaxStatsScaling,
    NarrowIntQuant,
    ParamFromRuntimePercentileScaling,
    ParamMinMaxInitScaling,
    PerChannelFloatScaling8bit,
    PerTensorFloatScaling8bit,
    UintQuant,
)
from brevitas.quant.solver.act import ActQuantSolver
from brevitas.quant.solver.bias import BiasQuantSolver
from brevitas.quant.solver.weight import WeightQuantSolver

__all__ = [
    "Int16Bias",
    "Int24Bias",
    "Int32Bias",
    "Int8ActPerTensorFloat",
    "Int8ActPerTensorFloatBatchQuant1d",
    "Int8ActPerTensorFloatBatchQuant2d",
    "Int8ActPerTensorFloatMinMaxInit",
    "Int8Bias",
    "Int8BiasPerTensorFloatInternalScaling",
    "Int8WeightPerChannelFloat",
    "Int8WeightPerTensorFloat",
    "IntBias",
    "Uint8ActPerTensorFloat",
    "Uint8ActPerTensorFloatBatchQuant1d",
    "Uint8ActPerTensorFloatBatchQuant2d",
    "Uint8ActPerTensorFloatMaxInit",
]


class Int8WeightPerTensorFloat(
    NarrowIntQuant, MaxStatsScaling, PerTensorFloatScaling8bit, WeightQuantSolver
):
    """8-bit narrow-range weight, one scale from the largest magnitude.

    Example:
        >>> from brevitas.nn import QuantLinear
        >>> layer = QuantLinear(2, 4, weight_quant=Int8WeightPerTensorFloat)
        >>> layer.quant_weight().bit_width
        tensor(8.)
    """


class Int8WeightPerChannelFloat(
    NarrowIntQuant, MaxStatsScaling, PerChannelFloatScaling8bit, WeightQuantSolver
):
    """8-bit narrow-range weight, one scale per output channel from its largest magnitude.

    Example:
        >>> from brevitas.nn import QuantLinear
        >>> layer = QuantLinear(2, 4, weight_quant=Int8WeightPerChannelFloat)
        >>> layer.quant_weight().scale.shape
        torch.Size([4, 1])
    """


class Int8ActPerTensorFloat(
    IntQuant, ParamFromRuntimePercentileScaling, PerTensorFloatScaling8bit, ActQuantSolver
):
    """8-bit signed activation, learned scale that starts from the 99.999th percentile.

    Example:
        >>> from brevitas.nn import QuantIdentity
        >>> QuantIdentity(act_quant=Int8ActPerTensorFloat).act_quant.bit_width()
        tensor(8.)
    """


class Uint8ActPerTensorFloat(
    UintQuant, ParamFromRuntimePercentileScaling, PerTensorFloatScaling8bit, ActQuantSolver
):
    """8-bit unsigned activation, learned scale that starts from the 99.999th percentile."""


class Int8ActPerTensorFloatMinMaxInit(
    IntQuant, ParamMinMaxInitScaling, PerTensorFloatScaling8bit, ActQuantSolver
):
    """8-bit signed activation, learned scale that starts from ``min_val`` and ``max_val``."""


class Uint8ActPerTensorFloatMaxInit(
    UintQuant, ParamMinMaxInitScaling, PerTensorFloatScaling8bit, ActQuantSolver
):
    """8-bit unsigned activation, learned scale that starts from ``max_val``."""

    min_val = 0.0


class Int8ActPerTensorFloatBatchQuant1d(
    IntQuant, BatchQuantStatsScaling1d, PerTensorFloatScaling8bit, ActQuantSolver
):
    """8-bit signed activation ``[N, C, L]``, scale from the statistics of each batch."""


class Int8ActPerTensorFloatBatchQuant2d(
    IntQuant, BatchQuantStatsScaling2d, PerTensorFloatScaling8bit, ActQuantSolver
):
    """8-bit signed activation ``[N, C, H, W]``, scale from the statistics of each batch."""


class Uint8ActPerTensorFloatBatchQuant1d(
    UintQuant, BatchQuantStatsScaling1d, PerTensorFloatScaling8bit, ActQuantSolver
):
    """8-bit unsigned activation ``[N, C, L]``, scale from the statistics of each batch."""


class Uint8ActPerTensorFloatBatchQuant2d(
    UintQuant, BatchQuantStatsScaling2d, PerTensorFloatScaling8bit, ActQuantSolver
):
    """8-bit unsigned activation ``[N, C, H, W]``, scale from the statistics of each batch."""


class IntBias(IntQuant, BiasQuantSolver):
    """Bias at the scale of the accumulator (input scale times weight scale); set ``bit_width``."""

    tensor_clamp_impl: Any = TensorClamp


class Int8Bias(IntBias):
    """8-bit bias at the scale of the accumulator."""

    bit_width = 8


class Int16Bias(IntBias):
    """16-bit bias at the scale of the accumulator."""

    bit_width = 16


class Int24Bias(IntBias):
    """24-bit bias at the scale of the accumulator."""

    bit_width = 24


class Int32Bias(IntBias):
    """32-bit bias at the scale of the accumulator."""

    bit_width = 32


class Int8BiasPerTensorFloatInternalScaling(
    IntQuant, MaxStatsScaling, PerTensorFloatScaling8bit, BiasQuantSolver
):
    """8-bit bias with a scale of its own; needs no quantized input."""
