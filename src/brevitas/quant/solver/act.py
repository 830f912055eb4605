"""Solver of activation quantizers. Layer: quant (L5)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from brevitas.core.quant import ClampedBinaryQuant, RescalingIntQuant, TernaryQuant
from brevitas.core.scaling import (
    ConstScaling,
    ParameterFromRuntimeStatsScaling,
    ParameterScaling,
    RuntimeDynamicGroupStatsScaling,
    RuntimeStatsScaling,
)
from brevitas.inject import DependencyError, value
from brevitas.inject.enum import QuantType, ScalingImplType, ScalingPerOutputType
from brevitas.proxy.groupwise_int_runtime_quant import GroupwiseActQuantProxyFromInjector
from brevitas.proxy.runtime_quant import ActQuantProxyFromInjector
from brevitas.proxy.utils import ConvertRuntimeStatsToParameter
from brevitas.quant.solver.common import (
    SolveBitWidth,
    SolveIntQuant,
    SolveRestriction,
    SolveRounding,
    SolveStats,
    as_granularity,
    as_member,
    choose,
)
from brevitas.quant.solver.group import SolveActGroups

__all__ = ["ActQuantSolver"]

_SCALING: dict[ScalingImplType, type[nn.Module]] = {
    ScalingImplType.CONST: ConstScaling,
    ScalingImplType.STATS: RuntimeStatsScaling,
    ScalingImplType.AFFINE_STATS: RuntimeStatsScaling,
    ScalingImplType.PARAMETER: ParameterScaling,
    ScalingImplType.PARAMETER_FROM_STATS: ParameterFromRuntimeStatsScaling,
}

#: A group's scale is that of the input at hand, since inputs have no fixed number of groups.
_GROUP_SCALING: dict[ScalingImplType, type[nn.Module]] = {
    ScalingImplType.CONST: ConstScaling,
    ScalingImplType.STATS: RuntimeDynamicGroupStatsScaling,
}
_PROXY: dict[ScalingPerOutputType, type[ActQuantProxyFromInjector]] = {
    ScalingPerOutputType.GROUP: GroupwiseActQuantProxyFromInjector
}

#: A quantizer of type FP quantizes nothing. A binary activation passes no gradient beyond its
#: range, as the hard tanh that it stands for.
_TENSOR_QUANT: dict[QuantType, Any] = {
    QuantType.BINARY: ClampedBinaryQuant,
    QuantType.TERNARY: TernaryQuant,
    QuantType.INT: RescalingIntQuant,
    QuantType.FP: None,
}


class MinMaxScalingInit:
    """Start of a learned scale from a user's range: the larger magnitude of its ends.

    Args:
        max_val: largest real value to represent.
        min_val: smallest real value to represent; ``-max_val`` by default.
    """

    def __init__(self, max_val: float | Tensor, min_val: float | Tensor | None = None) -> None:
        for name, number in (("max_val", max_val), ("min_val", min_val)):
            if number is not None and not isinstance(number, (int, float, Tensor)):
                raise TypeError(f"{name}={number!r}: expected a number or a tensor.")
        span = None if min_val is None else max_val - min_val
        is_empty = isinstance(span, (int, float)) and span <= 0
        if is_empty or (isinstance(span, Tensor) and not span.is_meta and bool((span <= 0).any())):
            raise ValueError(
                f"max_val={max_val!r}, min_val={min_val!r}: expected max_val > min_val."
            )
        self.max_val = max_val
        self.min_val = min_val

    def __call__(self) -> float | Tensor:
        """Return the real value that the integer limit stands for."""
        if isinstance(self.max_val, Tensor):
            low = self.max_val if self.min_val is None else self.min_val
            return self.max_val.abs().maximum(abs(low) * self.max_val.new_ones(()))
        low = self.max_val if self.min_val is None else self.min_val
        return max(abs(self.max_val), abs(low))


class ConstScalingInit:
    """A constant scale given by the user.

    Args:
        scaling_const: real value that the integer limit stands for.
    """

    def __init__(self, scaling_const: float | Tensor) -> None:
        self.scaling_const = scaling_const

    def __call__(self) -> float | Tensor:
        """Return the real value that the integer limit stands for."""
        return self.scaling_const


#: What a scale starts from: by default the user's range, or else the batch.
_SCALING_INIT: dict[ScalingImplType, Any] = {
    ScalingImplType.CONST: MinMaxScalingInit,
    ScalingImplType.PARAMETER: MinMaxScalingInit,
    ScalingImplType.STATS: None,
    ScalingImplType.AFFINE_STATS: None,
    ScalingImplType.PARAMETER_FROM_STATS: None,
}
#: The same where ``scaling_const`` is declared.
_SCALING_CONST = {**_SCALING_INIT, ScalingImplType.CONST: ConstScalingInit}


class SolveActScaling(SolveActGroups):
    """``scaling_impl_type`` -> ``scaling_impl`` of an activation, with its start and shape."""

    dtype = None
    device = None

    @value
    def scaling_impl(scaling_impl_type: Any = None, scaling_per_output: Any = None) -> Any:
        in_groups = as_granularity(scaling_per_output) is ScalingPerOutputType.GROUP
        table = _GROUP_SCALING if in_groups else _SCALING
        return choose(table, scaling_impl_type, "scaling_impl_type")

    @value
    def scaling_init_impl(scaling_impl_type: Any = None, scaling_const: Any = None) -> Any:
        if scaling_const is None:
            return choose(_SCALING_INIT, scaling_impl_type, "scaling_impl_type")
        return choose(_SCALING_CONST, scaling_impl_type, "scaling_impl_type")

    @value
    def scaling_init(scaling_init_impl: Any = None) -> Any:
        return scaling_init_impl() if callable(scaling_init_impl) else scaling_init_impl

    @value
    def scaling_shape(
        scaling_per_output: Any = None, per_channel_broadcastable_shape: Any = None
    ) -> tuple[int, ...]:
        if as_granularity(scaling_per_output) is not ScalingPerOutputType.CHANNEL:
            return ()
        if per_channel_broadcastable_shape is None:
            raise DependencyError(
                "scaling_per_output_channel=True on an activation: expected "
                "`per_channel_broadcastable_shape`, the shape of the scale with all dimensions "
                "but the channel's equal to 1, e.g. (1, 64, 1, 1)."
            )
        return tuple(per_channel_broadcastable_shape)

    @value
    def scaling_per_output_channel_shape(scaling_shape: tuple[int, ...]) -> tuple[int, ...]:
        return scaling_shape

    @value
    def permute_dims(
        scaling_shape: tuple[int, ...], scaling_stats_permute_dims: Any = None
    ) -> tuple[int, ...] | None:
        if scaling_stats_permute_dims is not None or not scaling_shape:
            return scaling_stats_permute_dims
        channel = max(range(len(scaling_shape)), key=lambda dim: scaling_shape[dim])
        return (channel, *(dim for dim in range(len(scaling_shape)) if dim != channel))

    @value
    def update_state_dict_impl(scaling_impl_type: Any = None) -> Any:
        kind = as_member(ScalingImplType, scaling_impl_type, "scaling_impl_type")
        learned = kind is ScalingImplType.PARAMETER_FROM_STATS
        return ConvertRuntimeStatsToParameter if learned else None


class SolveActTensorQuant(SolveIntQuant):
    """``quant_type`` -> ``tensor_quant`` of an activation."""

    @value
    def tensor_quant(quant_type: Any = None) -> Any:
        return choose(_TENSOR_QUANT, quant_type, "quant_type")


class ActQuantSolver(
    SolveActTensorQuant,
    SolveActScaling,
    SolveRestriction,
    SolveStats,
    SolveBitWidth,
    SolveRounding,
):
    """Base of activation quantizers that are declared by enums.

    Example:
        >>> from brevitas.quant.scaled_int import Int8ActPerTensorFloat
        >>> issubclass(Int8ActPerTensorFloat, ActQuantSolver)
        True
    """

    @value
    def proxy_class(scaling_per_output: Any = None) -> type[ActQuantProxyFromInjector]:
        return _PROXY.get(as_granularity(scaling_per_output), ActQuantProxyFromInjector)
