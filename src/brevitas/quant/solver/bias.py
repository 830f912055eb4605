"""Solver of bias quantizers. Layer: quant (L5)."""

from __future__ import annotations

from typing import Any

from brevitas.core.function_wrapper.misc import Identity
from brevitas.core.quant import (
    PrescaledRestrictIntQuant,
    PrescaledRestrictIntQuantWithInputBitWidth,
    RescalingIntQuant,
)
from brevitas.inject import ExtendedInjector, value
from brevitas.inject.enum import QuantType
from brevitas.proxy.parameter_quant import BiasQuantProxyFromInjector
from brevitas.quant.solver.common import (
    SolveBitWidth,
    SolveIntQuant,
    SolveRestriction,
    SolveRounding,
    SolveStats,
    as_member,
    choose,
)
from brevitas.quant.solver.parameter import SolveParameterScaling, SolveParameterTensorClamp

__all__ = ["BiasQuantSolver"]


class SolveBiasShape(ExtendedInjector):
    """What the granularity of a scale needs to know of the bias."""

    scaling_stats_input_concat_dim = 0
    input_view_impl = Identity

    @value
    def scaling_per_output_channel_shape(tracked_parameter_list: Any) -> tuple[int, ...]:
        return tuple(tracked_parameter_list[0].shape)


class SolveBiasTensorQuant(SolveIntQuant):
    """A bias takes the scale of the accumulator unless it declares a scale of its own."""

    @value
    def requires_input_scale(quant_type: Any = None, scaling_impl_type: Any = None) -> bool:
        kind = as_member(QuantType, quant_type, "quant_type")
        return kind is QuantType.INT and scaling_impl_type is None

    @value
    def tensor_quant(
        quant_type: Any, requires_input_scale: bool, requires_input_bit_width: bool = False
    ) -> Any:
        integer: Any = RescalingIntQuant
        if requires_input_scale:
            integer = PrescaledRestrictIntQuant
            if requires_input_bit_width:
                integer = PrescaledRestrictIntQuantWithInputBitWidth
        table: dict[QuantType, Any] = {QuantType.INT: integer, QuantType.FP: None}
        return choose(table, quant_type, "quant_type")


class BiasQuantSolver(
    SolveBiasTensorQuant,
    SolveParameterScaling,
    SolveParameterTensorClamp,
    SolveRestriction,
    SolveStats,
    SolveBitWidth,
    SolveRounding,
    SolveBiasShape,
):
    """Base of bias quantizers that are declared by enums.

    Example:
        >>> from brevitas.quant.scaled_int import Int16Bias
        >>> issubclass(Int16Bias, BiasQuantSolver), Int16Bias.requires_input_scale
        (True, True)
    """

    proxy_class = BiasQuantProxyFromInjector
