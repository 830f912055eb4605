"""Runs an integer quantizer as one compiled region, under ``BREVITAS_JIT=1``. Layer: core (L3).

From the tensor ``source`` that the scaling part reads, and the real ``offset`` that the zero-point
part reads, a region computes

    scale      = restrict(source) / threshold(bit_width)
    zero_point = round(offset / scale + min_int(bit_width))
    value      = (clamp(round(x / scale + zero_point)) - zero_point) * scale

The largest magnitude of a weight is found inside the region, every other statistic before it. A
scale that is a power (of a logarithmic or power-of-two restriction) is computed before it, too.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn

from brevitas.core.quant._fused import quantize_program
from brevitas.core.quant._plan import viewed
from brevitas.core.quant._recipe import Recipe, recipe_of
from brevitas.core.scaling._restriction import ScaleSource, SourceKind
from brevitas.core.stats._absmax import abs_max
from brevitas.ops.fake_quant import FakeQuantPlan
from brevitas.ops.layout import layout_of
from brevitas.ops.region import Region

__all__ = ["quantize_in_region"]

RegionOutput = tuple[Tensor | None, Tensor, Tensor, Tensor]


def _program(recipe: Recipe, plan: FakeQuantPlan, signed: bool, narrow: bool, kind: Any) -> Any:
    """The region's program over copies of the parts, which nobody can hook or change."""
    parts = (recipe.int_scaling, recipe.restriction, recipe.shift)
    int_scaling, restriction, shift = copy.deepcopy(parts)
    quantize = quantize_program(plan, signed, narrow)

    def program(
        x: Tensor, source: Tensor | None, offset: Tensor | None, bit_width: Tensor
    ) -> tuple[Tensor, ...]:
        read = _statistic_of(x) if source is None else ScaleSource(kind, source)
        scale = restriction.scale_of(read, int_scaling(bit_width))
        if offset is None:
            return *quantize(x, scale, None, bit_width), scale
        zero_point = shift(offset, scale, bit_width)
        return *quantize(x, scale, zero_point, bit_width), scale, zero_point

    return program


def _statistic_of(x: Tensor) -> ScaleSource:
    """The largest magnitude of a tensor, or of each row."""
    largest = abs_max(x) if x.dim() == 1 else abs_max(x, dim=1, keepdim=True)
    return ScaleSource(SourceKind.STATISTIC, largest)


_REGIONS: dict[Hashable, Region] = {}


def quantize_in_region(
    tensor_quant: nn.Module, x: Tensor, plan: FakeQuantPlan, source: ScaleSource | None = None
) -> RegionOutput | None:
    """Return ``(value, scale, zero_point, bit_width)`` of ``x``, computed by compiled kernels.

    Args:
        tensor_quant: a ``RescalingIntQuant``.
        x: a tensor on which a region can run.
        plan: how its integer part rounds and clamps.
        source: what the scale is made of, where the scaling part does not have to be asked.

    Returns:
        The outputs, with None for the value where no kernel serves these shapes; None, before
        any part was called, where a part is not the library's own.
    """
    recipe = recipe_of(tensor_quant)
    if not recipe.is_usable:
        return None
    parts: dict[str, Any] = tensor_quant._modules
    bit_width = parts["msb_clamp_bit_width_impl"]()
    found_inside = recipe.scale_shape(x) if source is None else None
    if found_inside is None and source is None:
        source = recipe.scaling.read(x)
    shape = found_inside if source is None else source.tensor.shape
    assert shape is not None
    shift = recipe.shift
    offset = None if shift is None else recipe.zero_point.read(x)
    int_quant = parts["int_quant"]
    in_groups = viewed(int_quant, x)
    outputs = _run(recipe, int_quant, plan, in_groups, shape, source, offset, bit_width)
    if outputs is not None:
        value, scale, *shifted = outputs
        zero_point = shifted[0] if shifted else recipe.zero_point(x, scale, bit_width)
        return value, scale, zero_point, bit_width
    threshold = recipe.int_scaling(bit_width)
    scale = recipe.restriction.scale_of(source or recipe.scaling.read(x), threshold)
    if offset is None or shift is None:
        return None, scale, recipe.zero_point(x, scale, bit_width), bit_width
    return None, scale, shift(offset, scale, bit_width), bit_width


def _run(
    recipe: Recipe,
    int_quant: Any,
    plan: FakeQuantPlan,
    x: Tensor,
    shape: torch.Size,
    source: ScaleSource | None,
    offset: Tensor | None,
    bit_width: Tensor,
) -> tuple[Tensor, ...] | None:
    """Outputs of the region; None where no kernel serves these shapes."""
    shape = torch.broadcast_shapes(shape, bit_width.shape)
    shapes = (shape,) if offset is None else (shape, torch.broadcast_shapes(shape, offset.shape))
    layout = layout_of(x, *shapes)
    if layout is None:
        return None
    kind, tensor = (None, None) if source is None else source
    arguments = (plan, int_quant.signed, int_quant.narrow_range, kind)
    key = (recipe.watched.key, arguments)
    if key not in _REGIONS:
        _REGIONS[key] = Region(_program(recipe, *arguments))
    return _REGIONS[key](layout, shapes, x, tensor, offset, bit_width)
