"""The small declarations that minifloat quantizers are combined from. Layer: quant (L5)."""

from __future__ import annotations

from typing import Any

from brevitas.core.bit_width.float import StaticExponentBias
from brevitas.core.function_wrapper import FloatClamp, TensorClamp
from brevitas.core.quant.float import FloatQuant
from brevitas.core.scaling import FloatScaling
from brevitas.inject import ExtendedInjector, value
from brevitas.inject.enum import BitWidthImplType, ScalingPerOutputType
from brevitas.proxy.float_parameter_quant import (
    WeightFloatQuantProxyFromInjector,
    WeightFloatQuantProxyFromInjectorBase,
)
from brevitas.proxy.float_runtime_quant import (
    ActFloatQuantProxyFromInjector,
    ActFloatQuantProxyFromInjectorBase,
)
from brevitas.proxy.groupwise_float_parameter_quant import (
    GroupwiseWeightFloatQuantProxyFromInjector,
)
from brevitas.proxy.groupwise_float_runtime_quant import GroupwiseActFloatQuantProxyFromInjector
from brevitas.quant.solver.act import ActQuantSolver
from brevitas.quant.solver.common import SolveFloatBitWidth, SolveRounding, as_granularity
from brevitas.quant.solver.weight import WeightQuantSolver

__all__ = [
    "FloatActBase",
    "FloatBase",
    "FloatWeightBase",
    "Fp4e2m1Mixin",
    "Fp6e2m3Mixin",
    "Fp6e3m2Mixin",
    "Fp8e4m3Mixin",
    "Fp8e5m2Mixin",
    "ScaledFloatActBase",
    "ScaledFloatWeightBase",
]


_WEIGHT_PROXY: dict[ScalingPerOutputType, type[WeightFloatQuantProxyFromInjectorBase]] = {
    ScalingPerOutputType.GROUP: GroupwiseWeightFloatQuantProxyFromInjector
}
_ACT_PROXY: dict[ScalingPerOutputType, type[ActFloatQuantProxyFromInjectorBase]] = {
    ScalingPerOutputType.GROUP: GroupwiseActFloatQuantProxyFromInjector
}


class FloatBase(SolveRounding, SolveFloatBitWidth):
    """A minifloat quantizer without a scale; set the bits of exponent and mantissa."""

    tensor_quant = FloatQuant
    signed = True
    float_to_int_impl_type = "round"
    scaling_min_val = 1e-10
    exponent_bit_width_impl_type = BitWidthImplType.CONST
    mantissa_bit_width_impl_type = BitWidthImplType.CONST
    exponent_bias_impl = StaticExponentBias
    float_clamp_impl = FloatClamp
    tensor_clamp_impl = TensorClamp

    @value
    def exponent_bias(exponent_bit_width: int) -> int:
        return 2 ** (exponent_bit_width - 1) - 1


class FloatWeightBase(FloatBase, WeightQuantSolver):
    """A minifloat weight without a scale."""

    @value
    def proxy_class(scaling_per_output: Any = None) -> type[WeightFloatQuantProxyFromInjectorBase]:
        return _WEIGHT_PROXY.get(
            as_granularity(scaling_per_output), WeightFloatQuantProxyFromInjector
        )


class FloatActBase(FloatBase, ActQuantSolver):
    """A minifloat activation without a scale."""

    @value
    def proxy_class(scaling_per_output: Any = None) -> type[ActFloatQuantProxyFromInjectorBase]:
        return _ACT_PROXY.get(as_granularity(scaling_per_output), ActFloatQuantProxyFromInjector)


class ScaledFloatWeightBase(FloatWeightBase, WeightQuantSolver):
    """A minifloat weight whose largest magnitude becomes the largest minifloat."""

    scaling_stats_op = "max"
    scaling_impl_type = "stats"
    restrict_scaling_type = "fp"
    float_scaling_impl = FloatScaling


class ScaledFloatActBase(FloatActBase, ActQuantSolver):
    """A minifloat activation with a learned scale that starts from the largest magnitude."""

    scaling_stats_op = "max"
    scaling_impl_type = "parameter_from_stats"
    restrict_scaling_type = "fp"
    collect_stats_steps = 300
    float_scaling_impl = FloatScaling


class Fp8e4m3Mixin(ExtendedInjector):
    """8 bits: sign, 4 exponent bits, 3 mantissa bits."""

    bit_width = 8
    exponent_bit_width = 4
    mantissa_bit_width = 3
    saturating = True


class Fp8e5m2Mixin(ExtendedInjector):
    """8 bits: sign, 5 exponent bits, 2 mantissa bits."""

    bit_width = 8
    exponent_bit_width = 5
    mantissa_bit_width = 2
    saturating = True


class Fp6e3m2Mixin(ExtendedInjector):
    """6 bits: sign, 3 exponent bits, 2 mantissa bits."""

    bit_width = 6
    exponent_bit_width = 3
    mantissa_bit_width = 2
    saturating = True


class Fp6e2m3Mixin(ExtendedInjector):
    """6 bits: sign, 2 exponent bits, 3 mantissa bits."""

    bit_width = 6
    exponent_bit_width = 2
    mantissa_bit_width = 3
    saturating = True


class Fp4e2m1Mixin(ExtendedInjector):
    """4 bits: sign, 2 exponent bits, 1 mantissa bit."""

    bit_width = 4
    exponent_bit_width = 2
    mantissa_bit_width = 1
    saturating = True
