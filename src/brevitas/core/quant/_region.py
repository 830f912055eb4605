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

from brevitas.core.function_wrapper.misc import Identity, LogTwo, PowerOfTwo
from brevitas.core.function_wrapper.shape import OverOutputChannelView, OverTensorView
from brevitas.core.quant._fused import is_zero, quantize_program
from brevitas.core.quant._plan import viewed
from brevitas.core.quant._watch import Watched
from brevitas.core.scaling._restriction import ScaleSource, SourceKind
from brevitas.core.scaling.runtime import (
    RuntimeDynamicGroupStatsScaling,
    RuntimeStatsScaling,
    StatsFromParameterScaling,
)
from brevitas.core.scaling.standalone import (
    ConstScaling,
    ParameterFromRuntimeStatsScaling,
    ParameterFromStatsFromParameterScaling,
    ParameterScaling,
)
from brevitas.core.stats._absmax import AbsMax, abs_max
from brevitas.core.zero_point import (
    ParameterFromRuntimeZeroPoint,
    ParameterFromStatsFromParameterZeroPoint,
    ParameterZeroPoint,
    RuntimeDynamicGroupZeroPoint,
    StatsFromParameterZeroPoint,
)
from brevitas.ops.fake_quant import FakeQuantPlan
from brevitas.ops.layout import layout_of
from brevitas.ops.region import Region

__all__ = ["quantize_in_region", "recipe_of"]

RegionOutput = tuple[Tensor | None, Tensor, Tensor, Tensor]

# Parts that tell apart what they read from what follows from it.
_SCALINGS = frozenset(
    {
        ConstScaling,
        ParameterFromRuntimeStatsScaling,
        ParameterFromStatsFromParameterScaling,
        ParameterScaling,
        RuntimeDynamicGroupStatsScaling,
        RuntimeStatsScaling,
        StatsFromParameterScaling,
    }
)
_ZERO_POINTS = frozenset(
    {
        ParameterFromRuntimeZeroPoint,
        ParameterFromStatsFromParameterZeroPoint,
        ParameterZeroPoint,
        RuntimeDynamicGroupZeroPoint,
        StatsFromParameterZeroPoint,
    }
)
# Compilers round powers and logarithms otherwise than PyTorch; such scales are computed before.
_INEXACT = (LogTwo, PowerOfTwo)
# Views over which the largest magnitude is that of a layout's channels -> layout.
_LAYOUT_OF_VIEW = {OverTensorView: "flat", OverOutputChannelView: "rows"}


class _Recipe:
    """How one quantizer runs in a region, as long as its parts stay what they are."""

    def __init__(self, parts: dict[str, Any]) -> None:
        self.scaling: Any = parts["scaling_impl"]
        self.zero_point: Any = parts["zero_point_impl"]
        self.int_scaling = parts["int_scaling_impl"]
        splits = type(self.scaling) in _SCALINGS
        self.restriction: Any = self.scaling.restriction if splits else None
        #: Whether compiled code computes the scale bit by bit as eager code does.
        self.is_exact = splits and not any(
            isinstance(part, _INEXACT) for part in self.restriction.modules()
        )
        self.shift = _shift_of(self.zero_point)
        statistic = _largest_magnitude_parts(self.scaling)
        #: Layout in which the statistic is the largest magnitude of the input, None for another.
        self.largest_in = _LAYOUT_OF_VIEW[type(statistic[0])] if statistic else None
        baked = [self.int_scaling, self.restriction, self.shift, *statistic[:2]]
        read = [self.scaling, self.zero_point, *statistic[2:]]
        self.watched = Watched([part for part in baked if part is not None], read)

    @property
    def is_usable(self) -> bool:
        """Whether the parts as they are can be baked into a region."""
        has_zero_point = self.shift is not None or is_zero(self.zero_point)
        return self.is_exact and has_zero_point and self.watched.key is not None

    def scale_shape(self, x: Tensor) -> torch.Size | None:
        """Shape of the scale where the region finds the statistic itself, None elsewhere."""
        if self.largest_in is None or len(self.scaling.parameter_list_stats._tracked[0]) != 1:
            return None
        shape = torch.Size(self.scaling.parameter_list_stats.stats.stats_output_shape)
        layout = layout_of(x, shape)
        return shape if layout is not None and layout.kind == self.largest_in else None

    def program(self, plan: FakeQuantPlan, signed: bool, narrow: bool, kind: Any) -> Any:
        """The region's program over copies of the parts, which nobody can hook or change."""
        parts = (self.int_scaling, self.restriction, self.shift)
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


def _shift_of(zero_point: Any) -> Any:
    """The part that turns a real offset into an integer, None where there is no offset."""
    return zero_point.scale_shift_zero_point if type(zero_point) in _ZERO_POINTS else None


def _statistic_of(x: Tensor) -> ScaleSource:
    """The largest magnitude of a tensor, or of each row."""
    largest = abs_max(x) if x.dim() == 1 else abs_max(x, dim=1, keepdim=True)
    return ScaleSource(SourceKind.STATISTIC, largest)


def _largest_magnitude_parts(scaling: Any) -> list[nn.Module]:
    """View and statistic first, then the modules around them; empty for another statistic."""
    if type(scaling) is not StatsFromParameterScaling:
        return []
    tracked = scaling.parameter_list_stats
    view, statistic = tracked.view_shape_impl, tracked.stats.stats_impl
    per_channel = type(view) is OverOutputChannelView and type(view.permute_impl) is Identity
    if not (per_channel or type(view) is OverTensorView) or type(statistic) is not AbsMax:
        return []
    reduces = 1 if per_channel else None
    fits = statistic.stats_reduce_dim == reduces and not statistic.keepdim
    if not fits or type(tracked.affine_rescaling) is not Identity:
        return []
    return [view, statistic, tracked, tracked.stats, tracked.affine_rescaling]


_REGIONS: dict[Hashable, Region] = {}


def recipe_of(tensor_quant: Any) -> _Recipe:
    """What is known of the parts of a ``RescalingIntQuant``, as they are now."""
    recipe = tensor_quant.region_recipe
    parts: dict[str, Any] = tensor_quant._modules
    if (
        recipe is None
        or recipe.scaling is not parts["scaling_impl"]
        or recipe.zero_point is not parts["zero_point_impl"]
        or recipe.int_scaling is not parts["int_scaling_impl"]
        or not recipe.watched.is_current()
    ):
        recipe = tensor_quant.region_recipe = _Recipe(parts)
    return recipe


def quantize_in_region(
    tensor_quant: nn.Module, x: Tensor, plan: FakeQuantPlan
) -> RegionOutput | None:
    """Return ``(value, scale, zero_point, bit_width)`` of ``x``, computed by compiled kernels.

    Args:
        tensor_quant: a ``RescalingIntQuant``.
        x: a tensor on which a region can run.
        plan: how its integer part rounds and clamps.

    Returns:
        The outputs, with None for the value where no kernel serves these shapes; None, before
        any part was called, where a part is not the library's own.
    """
    recipe = recipe_of(tensor_quant)
    if not recipe.is_usable:
        return None
    parts: dict[str, Any] = tensor_quant._modules
    bit_width = parts["msb_clamp_bit_width_impl"]()
    shape, source = recipe.scale_shape(x), None
    if shape is None:
        source = recipe.scaling.read(x)
        shape = source.tensor.shape
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
    recipe: _Recipe,
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
        _REGIONS[key] = Region(recipe.program(*arguments))
    return _REGIONS[key](layout, shapes, x, tensor, offset, bit_width)
