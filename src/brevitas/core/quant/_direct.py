"""Runs an integer quantizer of constant bit width without calling its parts. Layer: core (L3).

The usual quantizers follow from a few constants and one magnitude, learned or found in the tensor:

    scale = max(|magnitude|, smallest) / threshold
    value = clamp(round(x / scale)) * scale

Their parts declare these constants, and are not called while they are the library's own, without
hooks. Values and gradients are those of the parts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from brevitas.core.quant._plan import viewed
from brevitas.core.quant._recipe import Constants, Recipe
from brevitas.core.scaling._restriction import SourceKind
from brevitas.core.scaling.standalone import (
    ConstScaling,
    ParameterFromRuntimeStatsScaling,
    ParameterScaling,
)
from brevitas.ops.fake_quant import FakeQuantPlan, fake_quant
from brevitas.ops.scale import positive_scale
from brevitas.ops.self_scaled import SelfScaledPlan, self_scaled_quant
from brevitas.utils.torch_utils import widened

__all__ = ["quantize_directly", "reads_input"]

_WIDE = (torch.float32, torch.float64)


def quantize_directly(
    recipe: Recipe, x: Tensor, plan: FakeQuantPlan
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ``(value, scale, zero_point, bit_width)`` of ``x``.

    Args:
        recipe: of a quantizer that runs directly.
        x: a tensor in plain eager code.
        plan: how the quantizer rounds and clamps.
    """
    constants = recipe.constants()
    shape = recipe.scale_shape(x)
    in_groups = viewed(recipe.int_quant, x)
    if shape is not None and x.dtype in _WIDE and in_groups is x:
        limits = (constants.lower, constants.upper)
        by_row = recipe.largest_in == "rows"
        how = SelfScaledPlan(plan, *limits, recipe.smallest, by_row, shape)
        value, scale = self_scaled_quant(x, constants.threshold, how)
    else:
        scale = _scale(recipe, x, constants)
        value = fake_quant(in_groups, scale, None, constants.lower, constants.upper, plan)
    return value, scale, constants.zero_point, constants.bit_width


def _scale(recipe: Recipe, x: Tensor, constants: Constants) -> Tensor:
    kind, magnitude = source = recipe.scaling.read(x)
    if kind is SourceKind.BATCH:  # the sign of a statistic of one batch is kept
        return recipe.restriction.scale_of(source, constants.threshold)
    return positive_scale(widened(magnitude), recipe.smallest, constants.threshold)


def reads_input(scaling: Any) -> bool:
    """Whether the scale of a call now depends on the tensor that is quantized.

    Example:
        >>> from brevitas.core.scaling import ConstScaling
        >>> reads_input(ConstScaling(1.0))
        False
    """
    if type(scaling) is ParameterFromRuntimeStatsScaling:
        return scaling.training and scaling.counts_forwards
    return type(scaling) not in (ConstScaling, ParameterScaling)
