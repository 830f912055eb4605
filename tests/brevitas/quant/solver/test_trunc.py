"""Truncations are built from their enums."""

from __future__ import annotations

import pytest

from brevitas.core.bit_width import BitWidthConst, BitWidthParameter, BitWidthStatefulConst
from brevitas.core.function_wrapper import CeilSte, FloorSte, RoundSte
from brevitas.core.quant import TruncIntQuant
from brevitas.core.scaling import (
    IntScaling,
    ParameterFromRuntimeStatsScaling,
    PowerOfTwoIntScaling,
    RuntimeStatsScaling,
    TruncMsbScaling,
    TruncScalingWrapper,
)
from brevitas.inject import DependencyError
from brevitas.quant import RoundTo8bit, ShiftRoundSaturateTo8bit, TruncTo8bit
from brevitas.quant.solver import TruncQuantSolver


def test_parts_of_the_predefined_truncations():
    for quantizer, rounding, scaling in (
        (TruncTo8bit, FloorSte, TruncMsbScaling),
        (RoundTo8bit, RoundSte, TruncMsbScaling),
        (ShiftRoundSaturateTo8bit, RoundSte, TruncScalingWrapper),
    ):
        tensor_quant = quantizer.tensor_quant
        assert type(tensor_quant) is TruncIntQuant
        assert type(tensor_quant.float_to_int_impl) is rounding
        assert type(tensor_quant.trunc_scaling_impl) is scaling
        assert tensor_quant.msb_clamp_bit_width_impl.number == 8
        assert not tensor_quant.narrow_range and not tensor_quant.keeps_scale


def test_parts_of_the_wrapped_scaling():
    wrapper = ShiftRoundSaturateTo8bit.tensor_quant.trunc_scaling_impl
    assert type(wrapper.scaling_impl) is ParameterFromRuntimeStatsScaling
    assert type(wrapper.trunc_int_scaling_impl) is PowerOfTwoIntScaling
    statistic = ShiftRoundSaturateTo8bit.let(scaling_impl_type="stats", restrict_scaling_type="fp")
    wrapper = statistic.tensor_quant.trunc_scaling_impl
    assert type(wrapper.scaling_impl) is RuntimeStatsScaling
    assert type(wrapper.trunc_int_scaling_impl) is IntScaling


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("const", BitWidthConst),
        ("parameter", BitWidthParameter),
        ("stateful_const", BitWidthStatefulConst),
    ],
)
def test_bit_width(kind, part):
    tensor_quant = TruncTo8bit.let(bit_width_impl_type=kind, bit_width=4).tensor_quant
    assert type(tensor_quant.msb_clamp_bit_width_impl) is part
    assert tensor_quant.msb_clamp_bit_width_impl().item() == 4


def test_declarations_reach_the_quantizer():
    quantizer = TruncTo8bit.let(
        float_to_int_impl_type="ceil", narrow_range=True, keeps_scale=True, quant_delay_steps=3
    )
    tensor_quant = quantizer.tensor_quant
    assert type(tensor_quant.float_to_int_impl) is CeilSte
    assert tensor_quant.narrow_range and tensor_quant.keeps_scale
    assert tensor_quant.delay_wrapper.is_active


def test_not_truncated():
    assert TruncQuantSolver.let(quant_type="fp").tensor_quant is None


@pytest.mark.parametrize("name", ["quant_type", "trunc_scaling_impl_type", "bit_width_impl_type"])
def test_a_type_that_does_not_exist(name):
    with pytest.raises(DependencyError, match=f"{name}='nonsense': expected one of"):
        _ = TruncTo8bit.let(**{name: "nonsense"}).tensor_quant
