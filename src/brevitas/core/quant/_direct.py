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

from brevitas.core._phase import sample_of
from brevitas.core.quant._plan import viewed
from brevitas.core.quant._recipe import Recipe
from brevitas.core.scaling._restriction import ScaleSource, SourceKind
from brevitas.core.scaling.standalone import (
    ConstScaling,
    ParameterFromRuntimeStatsScaling,
    ParameterScaling,
)
from brevitas.ops.fake_quant import FakeQuantPlan, fake_quant
from brevitas.ops.scale import positive_scale
from brevitas.ops.self_scaled import self_scaled_quant
from brevitas.utils.torch_utils import widened

__all__ = ["quantize_directly", "source_before_rectified", "value_on_scale"]

_WIDE = (torch.float32, torch.float64)


def quantize_directly(
    recipe: Recipe, x: Tensor, plan: FakeQuantPlan, source: ScaleSource | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ``(value, scale, zero_point, bit_width)`` of ``x``.

    Args:
        recipe: of a quantizer that runs directly.
        x: a tensor in plain eager code.
        plan: how the quantizer rounds and clamps.
        source: what the scale is made of, where the scaling part does not have to be asked.
    """
    constants = recipe.constants()
    shape = None if source is not None else recipe.scale_shape(x)
    if shape is not None and x.dtype in _WIDE and viewed(recipe.int_quant, x) is x:
        how = recipe.self_scaled(plan, shape)
        value, scale = self_scaled_quant(x, constants.threshold, how)
    else:
        scale = _scale(recipe, source or recipe.scaling.read(x), constants.threshold)
        value = value_on_scale(recipe, x, scale, plan)
    return value, scale, constants.zero_point, constants.bit_width


def value_on_scale(recipe: Recipe, x: Tensor, scale: Tensor, plan: FakeQuantPlan) -> Tensor:
    """Return the quantized value of ``x`` on a scale that is known."""
    constants, in_groups = recipe.constants(), viewed(recipe.int_quant, x)
    return fake_quant(in_groups, scale, None, constants.lower, constants.upper, plan)


def _scale(recipe: Recipe, source: ScaleSource, threshold: Tensor) -> Tensor:
    if source.kind is SourceKind.BATCH:  # the sign of a statistic of one batch is kept
        return recipe.restriction.scale_of(source, threshold)
    return positive_scale(widened(source.tensor), recipe.smallest, threshold)


def source_before_rectified(scaling: Any, x: Tensor) -> ScaleSource | None:
    """What the scale of ``max(x, 0)`` is made of; None where that depends on ``max(x, 0)``.

    Args:
        scaling: a scaling part.
        x: real values, before they are rectified.

    Example:
        >>> from brevitas.core.scaling import ConstScaling
        >>> source_before_rectified(ConstScaling(1.0), torch.ones(2)).tensor
        tensor(1.)
    """
    if type(scaling) is ParameterFromRuntimeStatsScaling and scaling.training:
        if scaling.collecting or scaling.was_collected(lambda: sample_of(x).clamp_min_(0)):
            return None
        return ScaleSource(SourceKind.STORED, scaling.value)
    if type(scaling) in (ConstScaling, ParameterScaling, ParameterFromRuntimeStatsScaling):
        return scaling.read(x)
    return None
