"""Chooses the parts of a quantizer from its enums: one table per enum. Layer: quant (L5).

A solver is a base class of quantizers. Each ``value`` in it turns a declaration
(``scaling_impl_type = ScalingImplType.CONST``) into the class that the injector then builds.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar

import torch
from torch import nn

from brevitas.core.bit_width import BitWidthConst, BitWidthParameter, BitWidthStatefulConst
from brevitas.core.bit_width._validation import check_bit_width
from brevitas.core.bit_width.float import (
    ComputeMaxMantissa,
    MantissaBitWidthConst,
    StaticMaxMantissa,
)
from brevitas.core.function_wrapper import (
    CeilSte,
    DPURoundSte,
    FloorSte,
    LearnedRoundSte,
    OverOutputChannelView,
    OverTensorView,
    RoundSte,
    RoundToZeroSte,
    StochasticRoundSte,
)
from brevitas.core.function_wrapper.learned_round import (
    LearnedRoundHardSigmoid,
    LearnedRoundIdentity,
    LearnedRoundSigmoid,
)
from brevitas.core.function_wrapper.misc import Identity
from brevitas.core.quant import IntQuant
from brevitas.core.restrict_val import (
    FloatRestrictValue,
    IntRestrictValue,
    LogFloatRestrictValue,
    PowerOfTwoRestrictValue,
    SignedFloatRestrictValue,
)
from brevitas.core.scaling import SCALING_STATS_REDUCE_DIM, IntScaling, PowerOfTwoIntScaling
from brevitas.core.stats import (
    AbsAve,
    AbsMax,
    AbsMaxAve,
    AbsMinMax,
    AbsPercentile,
    MeanLearnedSigmaStd,
    MeanSigmaStd,
    PercentileInterval,
    SignedAbsMax,
)
from brevitas.inject import DependencyError, ExtendedInjector, this, value
from brevitas.inject.enum import (
    BitWidthImplType,
    FloatToIntImplType,
    LearnedRoundImplType,
    QuantType,
    RestrictValueType,
    ScalingPerOutputType,
    StatsOp,
)

__all__ = [
    "SolveBitWidth",
    "SolveFloatBitWidth",
    "SolveIntQuant",
    "SolveRestriction",
    "SolveRounding",
    "SolveStats",
    "as_member",
    "choose",
]

Choice = TypeVar("Choice")
Member = TypeVar("Member", bound=Enum)

_BIT_WIDTH: dict[BitWidthImplType, type[nn.Module]] = {
    BitWidthImplType.CONST: BitWidthConst,
    BitWidthImplType.PARAMETER: BitWidthParameter,
    BitWidthImplType.STATEFUL_CONST: BitWidthStatefulConst,
}
#: The same for the mantissa of a minifloat, which may have no bits.
_MANTISSA_BIT_WIDTH = {**_BIT_WIDTH, BitWidthImplType.CONST: MantissaBitWidthConst}
_ROUNDING: dict[FloatToIntImplType, type[nn.Module]] = {
    FloatToIntImplType.ROUND: RoundSte,
    FloatToIntImplType.CEIL: CeilSte,
    FloatToIntImplType.FLOOR: FloorSte,
    FloatToIntImplType.ROUND_TO_ZERO: RoundToZeroSte,
    FloatToIntImplType.DPU: DPURoundSte,
    FloatToIntImplType.LEARNED_ROUND: LearnedRoundSte,
    FloatToIntImplType.STOCHASTIC_ROUND: StochasticRoundSte,
}
_LEARNED_ROUNDING: dict[LearnedRoundImplType, type[nn.Module]] = {
    LearnedRoundImplType.HARD_SIGMOID: LearnedRoundHardSigmoid,
    LearnedRoundImplType.SIGMOID: LearnedRoundSigmoid,
    LearnedRoundImplType.IDENTITY: LearnedRoundIdentity,
}
_RESTRICTION: dict[RestrictValueType, type[nn.Module]] = {
    RestrictValueType.FP: FloatRestrictValue,
    RestrictValueType.SIGNED_FP: SignedFloatRestrictValue,
    RestrictValueType.LOG_FP: LogFloatRestrictValue,
    RestrictValueType.INT: IntRestrictValue,
    RestrictValueType.POWER_OF_TWO: PowerOfTwoRestrictValue,
}
_INT_SCALING: dict[RestrictValueType, type[nn.Module]] = {
    RestrictValueType.FP: IntScaling,
    RestrictValueType.SIGNED_FP: IntScaling,
    RestrictValueType.LOG_FP: IntScaling,
    RestrictValueType.INT: IntScaling,
    RestrictValueType.POWER_OF_TWO: PowerOfTwoIntScaling,
}
_INT_QUANT: dict[QuantType, Any] = {
    QuantType.BINARY: None,
    QuantType.TERNARY: None,
    QuantType.INT: IntQuant,
    QuantType.FP: None,
}
_STATS: dict[StatsOp, type[nn.Module]] = {
    StatsOp.MAX: AbsMax,
    StatsOp.AVE: AbsAve,
    StatsOp.MAX_AVE: AbsMaxAve,
    StatsOp.MEAN_SIGMA_STD: MeanSigmaStd,
    StatsOp.MEAN_LEARN_SIGMA_STD: MeanLearnedSigmaStd,
    StatsOp.PERCENTILE: AbsPercentile,
    StatsOp.MIN_MAX: AbsMinMax,
    StatsOp.PERCENTILE_INTERVAL: PercentileInterval,
    StatsOp.SIGNED_MAX: SignedAbsMax,
}


def as_member(enum_type: type[Member], choice: Member | str | None, name: str) -> Member | None:
    """Return a declared choice as a member of its enum; None stays None.

    Args:
        enum_type: the enum.
        choice: a member, or its name in any case.
        name: attribute that declared the choice, for the error.

    Raises:
        DependencyError: for a choice that is no member.

    Example:
        >>> as_member(BitWidthImplType, "const", "bit_width_impl_type")
        <BitWidthImplType.CONST: 'CONST'>
    """
    if choice is None or isinstance(choice, enum_type):
        return choice
    if isinstance(choice, str) and choice.upper() in enum_type.__members__:
        return enum_type[choice.upper()]
    accepted = ", ".join(str(member) for member in enum_type)
    raise DependencyError(f"{name}={choice!r}: expected one of {accepted}.")


def choose(table: Mapping[Member, Choice], choice: Member | str | None, name: str) -> Choice | None:
    """Look a declared choice up in its table; None stays None.

    Args:
        table: enum member -> part.
        choice: a member, or its name in any case.
        name: attribute that declared the choice, for the error.

    Raises:
        DependencyError: for a choice that the table does not have.

    Example:
        >>> choose(_BIT_WIDTH, "const", "bit_width_impl_type").__name__
        'BitWidthConst'
    """
    member = as_member(type(next(iter(table))), choice, name)
    if member is None:
        return None
    if member not in table:
        accepted = ", ".join(str(member) for member in table)
        raise DependencyError(f"{name}={choice!r}: not available here, expected one of {accepted}.")
    return table[member]


#: Dimension that a statistic reduces, in the view of the tensor that goes with it.
_REDUCE_DIM: dict[ScalingPerOutputType, Any] = {
    ScalingPerOutputType.CHANNEL: SCALING_STATS_REDUCE_DIM,
    ScalingPerOutputType.GROUP: this.group_elements_dim,
}
_STATS_VIEW: dict[ScalingPerOutputType, Any] = {
    ScalingPerOutputType.TENSOR: OverTensorView,
    ScalingPerOutputType.CHANNEL: OverOutputChannelView,
    ScalingPerOutputType.GROUP: this.input_view_impl,
}


class SolveBitWidth(ExtendedInjector):
    """``bit_width_impl_type`` -> ``bit_width_impl``."""

    @value
    def bit_width_impl(bit_width_impl_type: Any = None) -> Any:
        return choose(_BIT_WIDTH, bit_width_impl_type, "bit_width_impl_type")


class SolveFloatBitWidth(ExtendedInjector):
    """Bit widths of a minifloat and their ``_impl_type`` -> the parts that give them."""

    @value
    def exponent_bit_width_impl(
        exponent_bit_width: int,
        exponent_bit_width_impl_type: Any = None,
        dtype: torch.dtype | None = None,
        device: Any = None,
    ) -> Any:
        part = choose(_BIT_WIDTH, exponent_bit_width_impl_type, "exponent_bit_width_impl_type")
        bits = check_bit_width(exponent_bit_width, "exponent_bit_width", 1)
        return None if part is None else part(bits, dtype=dtype, device=device)

    @value
    def mantissa_bit_width_impl(
        mantissa_bit_width: int,
        mantissa_bit_width_impl_type: Any = None,
        dtype: torch.dtype | None = None,
        device: Any = None,
    ) -> Any:
        part = choose(
            _MANTISSA_BIT_WIDTH, mantissa_bit_width_impl_type, "mantissa_bit_width_impl_type"
        )
        bits = check_bit_width(mantissa_bit_width, "mantissa_bit_width", 0)
        return None if part is None else part(bits, dtype=dtype, device=device)

    @value
    def compute_max_mantissa(
        mantissa_bit_width: int,
        mantissa_bit_width_impl_type: Any = None,
        dtype: torch.dtype | None = None,
        device: Any = None,
    ) -> Any:
        kind = as_member(
            BitWidthImplType, mantissa_bit_width_impl_type, "mantissa_bit_width_impl_type"
        )
        if kind is not BitWidthImplType.CONST:
            return ComputeMaxMantissa()
        return StaticMaxMantissa(mantissa_bit_width, device, dtype)


class SolveRounding(ExtendedInjector):
    """``float_to_int_impl_type`` -> ``float_to_int_impl``, learned rounding included."""

    @value
    def float_to_int_impl(float_to_int_impl_type: Any = None) -> Any:
        return choose(_ROUNDING, float_to_int_impl_type, "float_to_int_impl_type")

    @value
    def learned_round_impl(learned_round_impl_type: Any = None) -> Any:
        return choose(_LEARNED_ROUNDING, learned_round_impl_type, "learned_round_impl_type")


class SolveRestriction(ExtendedInjector):
    """``restrict_scaling_type`` -> ``restrict_scaling_impl`` and ``int_scaling_impl``."""

    @value
    def restrict_scaling_impl(restrict_scaling_type: Any = None) -> Any:
        return choose(_RESTRICTION, restrict_scaling_type, "restrict_scaling_type")

    @value
    def int_scaling_impl(restrict_scaling_type: Any = None) -> Any:
        return choose(_INT_SCALING, restrict_scaling_type, "restrict_scaling_type")


class SolveStats(ExtendedInjector):
    """``scaling_stats_op`` and granularity -> statistic, its view of the tensor, its dimension."""

    @value
    def scaling_per_output(
        scaling_per_output_type: Any = None, scaling_per_output_channel: bool | None = None
    ) -> Any:
        if scaling_per_output_channel is not None:
            per_channel = ScalingPerOutputType.CHANNEL
            return per_channel if scaling_per_output_channel else ScalingPerOutputType.TENSOR
        return as_member(ScalingPerOutputType, scaling_per_output_type, "scaling_per_output_type")

    @value
    def scaling_stats_impl(scaling_stats_op: Any = None) -> Any:
        return choose(_STATS, scaling_stats_op, "scaling_stats_op")

    @value
    def stats_reduce_dim(scaling_stats_op: Any, scaling_per_output: Any) -> Any:
        return _REDUCE_DIM.get(_reduced_part(scaling_stats_op, scaling_per_output))

    @value
    def keepdim(scaling_per_output: Any = None) -> bool:
        return scaling_per_output is ScalingPerOutputType.GROUP

    @value
    def scaling_stats_input_view_shape_impl(
        scaling_stats_op: Any = None, scaling_per_output: Any = None
    ) -> Any:
        return _STATS_VIEW[_reduced_part(scaling_stats_op, scaling_per_output)]

    @value
    def inner_stats_input_view_shape_impl(
        scaling_stats_op: Any = None, scaling_per_output: Any = None
    ) -> Any:
        # A searched statistic is given the tensor as it is and reduces this view of it, which
        # has been brought into groups before.
        reduced = _reduced_part(scaling_stats_op, scaling_per_output)
        return Identity if reduced is ScalingPerOutputType.GROUP else _STATS_VIEW[reduced]

    @value
    def permute_dims(scaling_stats_permute_dims: Any = None) -> Any:
        return scaling_stats_permute_dims


def _reduced_part(scaling_stats_op: Any, scaling_per_output: Any) -> ScalingPerOutputType:
    """What a statistic reduces at a time: the tensor, a channel, a group."""
    op = as_member(StatsOp, scaling_stats_op, "scaling_stats_op")
    if not isinstance(scaling_per_output, ScalingPerOutputType | None):
        raise DependencyError(
            f"scaling_per_output={scaling_per_output!r}: expected a ScalingPerOutputType; set "
            "scaling_per_output_type, which takes names, too."
        )
    if op is not StatsOp.MAX_AVE:
        return scaling_per_output or ScalingPerOutputType.TENSOR
    if scaling_per_output is ScalingPerOutputType.GROUP:
        raise DependencyError(
            "scaling_stats_op=MAX_AVE with a scale per group: it is the mean over all channels; "
            "expected a statistic of one group, such as MAX or AVE."
        )
    return ScalingPerOutputType.CHANNEL


class SolveIntQuant(ExtendedInjector):
    """``quant_type`` -> ``int_quant``, which only the integer quantizer is built around."""

    @value
    def int_quant(quant_type: Any = None) -> Any:
        return choose(_INT_QUANT, quant_type, "quant_type")
