"""Derives how a minifloat quantizer executes: fused, or part by part. Layer: core (L3).

As for integers, the plan is derived from the parts at every call. It holds the numbers of the
format, so a format that is learned or loaded from a checkpoint runs part by part.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from brevitas import config
from brevitas.core.bit_width.const import BitWidthConst
from brevitas.core.bit_width.float import (
    ComputeMaxMantissa,
    MantissaBitWidthConst,
    StaticExponentBias,
    StaticMaxMantissa,
)
from brevitas.core.function_wrapper.clamp import FloatClamp
from brevitas.core.quant._fused import number_of, value_in_region
from brevitas.core.quant._plan import CLAMP_PASSES_GRADIENT, ROUNDING, are_plain
from brevitas.function.ops import max_float
from brevitas.ops.minifloat import MinifloatPlan, minifloat_quant
from brevitas.ops.region import Program, can_run_region

__all__ = ["fused_minifloat", "minifloat_plan"]

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
    return None if mantissa_bit_width is None else 2.0 - 2.0**-mantissa_bit_width


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
    codes = (clamp.signed, clamp.above, clamp.below)
    return _plan(*numbers, limit, *codes, rounding, passes)  # pyright: ignore[reportArgumentType]


@lru_cache(maxsize=1024)
def _plan(
    exponent_bit_width: float,
    mantissa_bit_width: float,
    exponent_bias: float,
    max_mantissa: float,
    available: float | None,
    signed: bool,
    above: float | None,
    below: float | None,
    rounding: str,
    passes: bool,
) -> MinifloatPlan | None:
    if exponent_bias != int(exponent_bias):
        return None  # steps that are no powers of two
    numbers = (exponent_bit_width, max_mantissa, exponent_bias)
    upper = max_float(*(torch.tensor(number, dtype=torch.float64) for number in numbers)).item()
    upper = upper if available is None else min(upper, available)
    smallest_step = 1 - int(exponent_bias) - int(mantissa_bit_width)
    lower = -upper if signed else 0.0
    mantissa = int(mantissa_bit_width)
    return MinifloatPlan(mantissa, smallest_step, lower, upper, rounding, passes, above, below)


def fused_minifloat(plan: MinifloatPlan, x: Tensor, scale: Tensor) -> Tensor:
    """Quantize in one operation, compiled where asked for.

    Args:
        plan: the format, and how values are rounded and limited to it.
        x: real values.
        scale: real value of 1.
    """
    if config.JIT_ENABLED and can_run_region(x):
        value = value_in_region(plan, lambda: _program(plan), x, scale)
        if value is not None:
            return value
    return minifloat_quant(x, scale, plan)


def _program(plan: MinifloatPlan) -> Program:
    return lambda x, scale: (minifloat_quant(x, scale, plan),)
