"""A minifloat quantizer is fused as long as its parts are the library's own and constant."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from brevitas.core.bit_width import BitWidthParameter, BitWidthStatefulConst
from brevitas.core.bit_width.float import (
    ComputeExponentBias,
    ComputeMaxMantissa,
    StaticExponentBias,
    StaticMaxMantissa,
)
from brevitas.core.function_wrapper import (
    InplaceTensorClampSte,
    RoundSte,
    StochasticRoundSte,
    TensorClampSte,
)
from brevitas.core.quant._float_plan import minifloat_plan
from brevitas.core.quant.float import FloatQuant
from brevitas.core.scaling import RoundMidMaxSte
from brevitas.ops.minifloat import MinifloatPlan
from minifloats import Format

E4M3 = Format(4, 3, 7, 448.0)
E5M2 = Format(5, 2, 15, 57344.0, "inf")


def test_the_plan_is_the_format() -> None:
    assert minifloat_plan(E4M3.build()) == MinifloatPlan(3, -9, -448.0, 448.0)
    passing = E4M3.build(tensor_clamp_impl=TensorClampSte())
    assert minifloat_plan(passing) == MinifloatPlan(3, -9, -448.0, 448.0, "ROUND", True)
    expected = MinifloatPlan(2, -16, -57344.0, 57344.0, above=math.inf, below=-math.inf)
    assert minifloat_plan(E5M2.build()) == expected
    unsigned = Format(3, 2, 3, None, signed=False)
    assert minifloat_plan(unsigned.build()) == MinifloatPlan(2, -4, 0.0, 28.0)


def test_the_range_ends_with_the_dtype() -> None:
    plan = minifloat_plan(Format(8, 7, 127, None).build())
    assert plan.upper > torch.finfo(torch.float32).max
    assert plan.range_in(torch.float32) == (-math.inf, math.inf)
    assert plan.range_in(torch.float64) == (-plan.upper, plan.upper)


class OwnRound(RoundSte):
    """A part that is ours by inheritance only."""


CHANGES: dict[str, Callable[[FloatQuant], object]] = {
    "own part": lambda q: setattr(q, "float_to_int_impl", OwnRound()),
    "stochastic": lambda q: setattr(q, "float_to_int_impl", StochasticRoundSte()),
    "learned exponent": lambda q: setattr(q, "exponent_bit_width_impl", BitWidthParameter(4)),
    "stored mantissa": lambda q: setattr(q, "mantissa_bit_width_impl", BitWidthStatefulConst(3)),
    "computed bias": lambda q: setattr(
        q, "exponent_bias_impl", ComputeExponentBias(q.exponent_bit_width_impl)
    ),
    "fractional bias": lambda q: setattr(q, "exponent_bias_impl", StaticExponentBias(6.5)),
    "rounded mantissa": lambda q: setattr(
        q, "compute_max_mantissa", ComputeMaxMantissa(RoundMidMaxSte(q.mantissa_bit_width_impl))
    ),
    "clamp in place": lambda q: setattr(
        q.float_clamp_impl, "tensor_clamp_impl", InplaceTensorClampSte()
    ),
    "own clamp": lambda q: setattr(q, "float_clamp_impl", nn.Identity()),
    "hooked clamp": lambda q: q.float_clamp_impl.register_forward_hook(lambda *a: None),
    "hooked bits": lambda q: q.mantissa_bit_width_impl.register_forward_hook(lambda *a: None),
    "own forward": lambda q: setattr(q.exponent_bias_impl, "forward", lambda: torch.tensor(7.0)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_part_is_not_fused(change: Callable[[FloatQuant], object]) -> None:
    quantizer = E4M3.build()
    assert quantizer.is_fused
    change(quantizer)
    assert not quantizer.is_fused


def test_both_ways_to_state_the_largest_significand_fuse() -> None:
    computed = minifloat_plan(Format(4, 3, 7, None).build())
    static = Format(4, 3, 7, None).build(compute_max_mantissa=StaticMaxMantissa(3))
    assert computed == minifloat_plan(static) and computed.upper == 480.0
