"""Derives how a minifloat quantizer executes: fused, or part by part. Layer: core (L3).

As for integers, the plan is derived from the parts at every call. It holds the numbers of the
format, so a format that is learned or loaded from a checkpoint runs part by part.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from brevitas.core.bit_width.const import BitWidthConst
from brevitas.core.bit_width.float import (
    ComputeMaxMantissa,
    MantissaBitWidthConst,
    StaticExponentBias,
    StaticMaxMantissa,
)
from brevitas.core.function_wrapper.clamp import FloatClamp
from brevitas.core.quant._fused import number_of
from brevitas.core.quant._plan import CLAMP_PASSES_GRADIENT, ROUNDING, are_plain
from brevitas.function.ops import compute_max_mantissa, max_float
from brevitas.ops.minifloat import MinifloatPlan

__all__ = ["minifloat_plan"]

#: Parts that hold one number of the format -> the name under which they hold it.
_CONSTANT_OF: dict[type[nn.Module], str] = {
    BitWidthConst: "bit_width",
    MantissaBitWidthConst: "bit_width",
    StaticExponentBias: "exponent_bias",
    StaticMaxMantissa: "compute_max_mantissa",
}
_FORMAT = ("exponent_bit_width_impl", "mantissa_bit_width_impl", "exponent_bias_impl")


def _constant(part: nn.Module) -> float | None:
    """The number that a part holds, None where it is not ours or may change."""
    name = _CONSTANT_OF.get(type(part))
    return None if name is None else number_of(part._modules.get(name))


def _max_mantissa(part: Any, mantissa_bit_width: float | None) -> float | None:
    """The largest significand, None where the part is not ours or may change."""
    if type(part) is not ComputeMaxMantissa or part.max_mantissa_round_impl is not None:
        return _constant(part)
    return None if mantissa_bit_width is None else compute_max_mantissa(mantissa_bit_width)


def minifloat_plan(float_quant: nn.Module) -> MinifloatPlan | None:
    """Return the fused plan of a ``FloatQuant``, or None where it runs part by part.

    Fused when the format is constant, when rounding and clamp are ours by exact type, and when
    none of them carries a hook.

    Args:
        float_quant: a module with the parts of ``brevitas.core.quant.float.FloatQuant``.
    """
    parts: dict[str, Any] = float_quant._modules
    rounding = ROUNDING.get(type(parts["float_to_int_impl"]))
    clamp = parts["float_clamp_impl"]
    if rounding is None or type(clamp) is not FloatClamp:
        return None
    passes = CLAMP_PASSES_GRADIENT.get(type(clamp.tensor_clamp_impl))
    numbers = [_constant(parts[name]) for name in _FORMAT]
    numbers.append(_max_mantissa(parts["compute_max_mantissa"], numbers[1]))
    available = clamp._modules.get("max_available_float")
    limit = None if available is None else number_of(available)
    if passes is None or None in numbers or (available is not None and limit is None):
        return None
    format_parts = (parts[name] for name in (*_FORMAT, "compute_max_mantissa"))
    if not are_plain(parts["float_to_int_impl"], clamp, clamp.tensor_clamp_impl, *format_parts):
        return None
    exponent_bit_width, mantissa_bit_width, exponent_bias, max_mantissa = map(float, numbers)  # pyright: ignore[reportArgumentType]
    if not exponent_bias.is_integer():
        return None  # steps that are no powers of two
    upper = max_float(exponent_bit_width, max_mantissa, exponent_bias)
    upper = upper if limit is None else min(upper, limit)
    return MinifloatPlan(
        int(mantissa_bit_width),
        int(1 - exponent_bias - mantissa_bit_width),
        -upper if clamp.signed else 0.0,
        upper,
        rounding,
        passes,
        clamp.above,
        clamp.below,
    )
