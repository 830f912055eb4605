"""Integer quantizers with a floating-point scale. Layer: quant (L5)."""

from __future__ import annotations

from typing import Any

from brevitas.core.function_wrapper import TensorClamp
from brevitas.inject.enum import (
    BitWidthImplType,
    FloatToIntImplType,
    QuantType,
    TruncScalingImplType,
)
from brevitas.quant.base import (
    BatchQuantStatsScaling1d,
    BatchQuantStatsScaling2d,
    HQOSymmetricScale,
    IntQuant,
    MaxStatsScaling,
    MSESymmetricScale,
    NarrowIntQuant,
    ParamFromRuntimePercentileScaling,
    ParamMinMaxInitScaling,
    PerChannelFloatScaling8bit,
    PerTensorFloatScaling8bit,
    PerTensorPoTScaling8bit,
    UintQuant,
)
from brevitas.quant.solver.act import ActQuantSolver
from brevitas.quant.solver.bias import BiasQuantSolver
from brevitas.quant.solver.trunc import TruncQuantSolver
from brevitas.quant.solver.weight import WeightQuantSolver

__all__ = [
    "Int16Bias",
    "Int24Bias",
    "Int32Bias",
    "Int8ActPerTensorFloat",
    "Int8ActPerTensorFloatBatchQuant1d",
    "Int8ActPerTensorFloatBatchQuant2d",
    "Int8ActPerTensorFloatMSE",
    "Int8ActPerTensorFloatMinMaxInit",
    "Int8Bias",
    "Int8BiasPerTensorFloatInternalScaling",
    "Int8WeightPerChannelFloat",
    "Int8WeightPerChannelFloatHQO",
    "Int8WeightPerChannelFloatMSE",
    "Int8WeightPerTensorFloat",
    "Int8WeightPerTensorFloatHQO",
    "Int8WeightPerTensorFloatMSE",
    "IntBias",
    "RoundTo8bit",
    "ShiftRoundSaturateTo8bit",
    "TruncTo8bit",
    "Uint8ActPerTensorFloat",
    "Uint8ActPerTensorFloatBatchQuant1d",
    "Uint8ActPerTensorFloatBatchQuant2d",
    "Uint8ActPerTensorFloatMSE",
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


class Int8WeightPerTensorFloatMSE(MSESymmetricScale, Int8WeightPerTensorFloat):
    """8-bit narrow-range weight, learned scale that starts where the squared error is least.

    Example:
        >>> from brevitas.nn import QuantLinear
        >>> layer = QuantLinear(2, 4, weight_quant=Int8WeightPerTensorFloatMSE)
        >>> layer.quant_weight().bit_width
        tensor(8.)
    """


class Int8WeightPerChannelFloatMSE(MSESymmetricScale, Int8WeightPerChannelFloat):
    """As ``Int8WeightPerTensorFloatMSE``, with one scale per output channel."""


class Int8ActPerTensorFloatMSE(MSESymmetricScale, Int8ActPerTensorFloat):
    """8-bit signed activation, learned scale that starts where the squared error is least."""


class Uint8ActPerTensorFloatMSE(MSESymmetricScale, Uint8ActPerTensorFloat):
    """8-bit unsigned activation, learned scale that starts where the squared error is least."""


class Int8WeightPerTensorFloatHQO(HQOSymmetricScale, Int8WeightPerTensorFloat):
    """8-bit narrow-range weight, learned scale that starts from half-quadratic optimization."""


class Int8WeightPerChannelFloatHQO(HQOSymmetricScale, Int8WeightPerChannelFloat):
    """As ``Int8WeightPerTensorFloatHQO``, with one scale per output channel."""


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


class TruncTo8bit(TruncQuantSolver):
    """The 8 most significant bits of an accumulator; the others are cut off.

    Example:
        >>> from brevitas.nn import TruncQuantAccumulator
        >>> from brevitas.quant_tensor import IntQuantTensor
        >>> x = IntQuantTensor(torch.tensor([6.0, -6.0]), 1.0, 0.0, 10, True, False)
        >>> TruncQuantAccumulator(trunc_quant=TruncTo8bit)(x).value
        tensor([ 4., -8.])
    """

    quant_type = QuantType.INT
    bit_width_impl_type = BitWidthImplType.CONST
    float_to_int_impl_type = FloatToIntImplType.FLOOR
    trunc_scaling_impl_type = TruncScalingImplType.MSB
    bit_width = 8


class RoundTo8bit(TruncQuantSolver):
    """The 8 most significant bits of an accumulator, rounded to nearest, half to even."""

    quant_type = QuantType.INT
    bit_width_impl_type = BitWidthImplType.CONST
    float_to_int_impl_type = FloatToIntImplType.ROUND
    trunc_scaling_impl_type = TruncScalingImplType.MSB
    bit_width = 8


class ShiftRoundSaturateTo8bit(
    TruncQuantSolver, ParamFromRuntimePercentileScaling, PerTensorPoTScaling8bit
):
    """The 8 bits of an accumulator that its integers make use of, rounded and saturated.

    A learned power of two, which starts from the 99.999th percentile, chooses among the bits.
    """

    quant_type = QuantType.INT
    bit_width_impl_type = BitWidthImplType.CONST
    float_to_int_impl_type = FloatToIntImplType.ROUND
    trunc_scaling_impl_type = TruncScalingImplType.WRAPPER
    bit_width = 8
