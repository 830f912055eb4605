"""What a recipe knows of a quantizer, and when it is made anew."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import brevitas.nn as qnn
from brevitas.core.bit_width import BitWidthConst
from brevitas.core.function_wrapper import CeilSte
from brevitas.core.quant._recipe import recipe_of
from brevitas.core.scaling import ConstScaling, IntScaling
from brevitas.core.stats import AbsMax
from brevitas.core.zero_point import ParameterZeroPoint
from brevitas.inject.enum import BitWidthImplType, RestrictValueType
from brevitas.quant import Int8WeightPerChannelFloat, ShiftedUint8WeightPerTensorFloat

Quantizer = Any


def quantizer(**keywords: Any) -> Quantizer:
    return qnn.QuantLinear(6, 4, **keywords).weight_quant.tensor_quant


def test_it_is_kept_while_nothing_changes() -> None:
    built = quantizer()
    recipe = recipe_of(built)
    built.train().eval()
    assert recipe_of(built) is recipe and recipe.direct_plan() is not None


CHANGES = {
    "another rounding": lambda q: setattr(q.int_quant, "float_to_int_impl", CeilSte()),
    "another scale": lambda q: setattr(q, "scaling_impl", ConstScaling(1.0)),
    "another statistic": lambda q: setattr(
        q.scaling_impl.parameter_list_stats.stats, "stats_impl", AbsMax()
    ),
    "another bit width": lambda q: setattr(q, "msb_clamp_bit_width_impl", BitWidthConst(3)),
    "another threshold": lambda q: setattr(q, "int_scaling_impl", IntScaling(False, True)),
    "a zero point": lambda q: setattr(
        q, "zero_point_impl", ParameterZeroPoint(0.0, q.int_quant, True)
    ),
    "a hook on the bit width": lambda q: q.msb_clamp_bit_width_impl.register_forward_hook(
        lambda *arguments: None
    ),
    "a hook on a constant": lambda q: q.zero_point_impl.zero_point.register_forward_hook(
        lambda *arguments: None
    ),
    "a hook on the clamp": lambda q: q.int_quant.tensor_clamp_impl.register_forward_pre_hook(
        lambda *arguments: None
    ),
    "a hook on the statistic": lambda q: (
        q.scaling_impl.parameter_list_stats.stats.register_forward_hook(lambda *arguments: None)
    ),
    "a forward": lambda q: setattr(q.int_quant, "forward", lambda *arguments: arguments[-1]),
    "a least scale": lambda q: setattr(
        q.scaling_impl.restriction.clamp_scaling, "clamp_min_ste", nn.Identity()
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_it_is_made_anew_after_a_change(change: Any) -> None:
    built = quantizer(weight_scaling_min_val=1e-3)
    before = recipe_of(built)
    change(built)
    assert recipe_of(built) is not before


def test_a_hook_that_is_taken_away_again() -> None:
    built = quantizer()
    handle = built.scaling_impl.register_forward_hook(lambda *arguments: None)
    assert recipe_of(built).direct_plan() is None
    handle.remove()
    assert recipe_of(built).direct_plan() is not None


def test_a_hook_for_all_modules_counts_at_once() -> None:
    recipe = recipe_of(quantizer())
    handle = nn.modules.module.register_module_forward_hook(lambda *arguments: None)
    assert recipe.direct_plan() is None
    handle.remove()
    assert recipe.direct_plan() is not None


def test_a_rectified_linear_unit_needs_a_range_that_starts_at_zero() -> None:
    assert recipe_of(quantizer()).direct_plan(rectifies=True) is None
    unsigned = qnn.QuantReLU().act_quant.fused_activation_quant_proxy.tensor_quant
    plan = recipe_of(unsigned).direct_plan(rectifies=True)
    assert plan is not None and plan.rectifies


@pytest.mark.parametrize(
    "keywords",
    [
        {"weight_quant": ShiftedUint8WeightPerTensorFloat},
        {"weight_bit_width_impl_type": BitWidthImplType.PARAMETER},
        {"weight_restrict_scaling_type": RestrictValueType.POWER_OF_TWO},
    ],
)
def test_what_does_not_run_directly(keywords: dict[str, Any]) -> None:
    assert recipe_of(quantizer(**keywords)).direct_plan() is None


def test_a_delay_ends() -> None:
    built = quantizer(weight_quant_delay_steps=1).train()
    weight = torch.randn(4, 6)
    assert recipe_of(built).direct_plan() is None
    built(weight)
    for _ in range(65):  # as long as a recomputation could still ask for the real value
        built(weight)
    assert recipe_of(built).direct_plan() is not None


def test_constants_follow_what_they_are_made_of() -> None:
    built = quantizer()
    recipe = recipe_of(built)
    constants = recipe.constants()
    assert (constants.lower, constants.upper) == (-127.0, 127.0)
    assert recipe.constants() is constants
    built.double()
    assert recipe.constants().bit_width.dtype is torch.float64
    built.int_quant.signed = False
    assert recipe.constants().lower == 0.0


def test_constants_made_in_inference_mode_serve_a_backward_pass() -> None:
    built, weight = quantizer(), torch.randn(4, 6, requires_grad=True)
    with torch.inference_mode():
        built(weight)
    built(weight)[0].sum().backward()
    assert weight.grad is not None


def test_the_shape_of_a_scale_is_known_for_a_single_parameter() -> None:
    layer = qnn.QuantLinear(6, 4, weight_quant=Int8WeightPerChannelFloat)
    recipe = recipe_of(layer.weight_quant.tensor_quant)
    assert recipe.scale_shape(layer.weight) == (4, 1)
    qnn.QuantLinear(6, 4, weight_quant=layer.weight_quant)
    assert recipe_of(layer.weight_quant.tensor_quant).scale_shape(layer.weight) is None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))])
def test_copies_make_their_own(copied: Any) -> None:
    built = quantizer()
    recipe, other = recipe_of(built), copied(built)
    assert other.recipe is None and recipe_of(other) is not recipe
    assert recipe_of(other).int_quant is other.int_quant
