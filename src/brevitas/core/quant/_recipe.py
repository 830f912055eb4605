"""How an integer quantizer runs, as long as its parts stay what they are. Layer: core (L3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from brevitas.core.bit_width.const import BitWidthConst
from brevitas.core.function_wrapper.misc import Identity, LogTwo, PowerOfTwo
from brevitas.core.function_wrapper.ops_ste import ScalarSignedClampMinSte
from brevitas.core.function_wrapper.shape import OverOutputChannelView, OverTensorView
from brevitas.core.quant._fused import constant_bounds, is_zero, number_of
from brevitas.core.quant._plan import has_global_hooks, is_plain, plan_without_delay
from brevitas.core.quant._watch import Watched
from brevitas.core.quant.delay import DelayWrapper
from brevitas.core.quant.int_base import IntQuant
from brevitas.core.restrict_val import FloatRestrictValue, LogFloatRestrictValue
from brevitas.core.scaling.int_scaling import IntScaling, PowerOfTwoIntScaling
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
from brevitas.core.stats._absmax import AbsMax
from brevitas.core.zero_point import (
    ParameterFromRuntimeZeroPoint,
    ParameterFromStatsFromParameterZeroPoint,
    ParameterZeroPoint,
    RuntimeDynamicGroupZeroPoint,
    StatsFromParameterZeroPoint,
)
from brevitas.ops.fake_quant import FakeQuantPlan
from brevitas.ops.layout import layout_of
from brevitas.ops.self_scaled import SelfScaledPlan

__all__ = ["Constants", "Recipe", "recipe_of"]

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
_PARTS = (
    "int_quant",
    "scaling_impl",
    "int_scaling_impl",
    "zero_point_impl",
    "msb_clamp_bit_width_impl",
)


class Constants(NamedTuple):
    """What follows from a constant bit width."""

    bit_width: Tensor
    zero_point: Tensor
    #: The integer that the statistic maps to.
    threshold: Tensor
    lower: float
    upper: float


class Recipe:
    """How one quantizer runs, as long as its parts stay what they are.

    Attributes:
        plan: rounding and clamp of the fused operation; None where parts run one by one.
        is_exact: whether compiled code computes the scale bit by bit as eager code does.
        shift: the part that turns a real offset into an integer, None where there is no offset.
        largest_in: layout in which the statistic is the largest magnitude of the input, or None.
        is_direct: whether scale and limits follow from a constant bit width and one magnitude.
        smallest: least magnitude of a direct quantizer; None for none.
    """

    def __init__(self, parts: dict[str, Any]) -> None:
        self.parts = tuple(parts[name] for name in _PARTS)
        self.int_quant, self.scaling, self.int_scaling, self.zero_point, self.bits = self.parts
        is_ours = type(self.int_quant) is IntQuant and is_plain(self.int_quant)
        self.plan = plan_without_delay(self.int_quant) if is_ours else None
        self.delay: DelayWrapper | None = self.int_quant.delay_wrapper if self.plan else None
        if self.delay is not None and not self.delay.ever_delays:
            self.delay = None
        splits = type(self.scaling) in _SCALINGS
        self.restriction: Any = self.scaling.restriction if splits else None
        self.is_exact = splits and not any(
            isinstance(part, _INEXACT) for part in self.restriction.modules()
        )
        self.shift = _shift_of(self.zero_point)
        statistic = _largest_magnitude_parts(self.scaling)
        self.largest_in = _LAYOUT_OF_VIEW[type(statistic[0])] if statistic else None
        baked = [self.int_scaling, self.restriction, self.shift, *statistic[:2]]
        read = [self.scaling, self.zero_point, *statistic[2:], *self.int_quant.modules()]
        read += [self.bits, *self.bits.children(), *self.zero_point.children()]
        self.watched = Watched([part for part in baked if part is not None], read)
        self.smallest: float | None = None
        self.is_direct = self.plan is not None and self.is_usable and self._is_direct()
        self._tracked: Sequence[Tensor] = ()
        #: Shape of the scale as declared; as it is for the last contiguous tensor, and its shape.
        self._stated_shape: torch.Size | None = None
        self._scale_shape: torch.Size | None = None
        self._shape_asked: torch.Size | None = None
        if self.largest_in is not None:
            statistics = self.scaling.parameter_list_stats
            self._tracked = statistics._tracked[0]
            self._stated_shape = torch.Size(statistics.stats.stats_output_shape)
        self._made_of: tuple[Any, ...] = ()
        self._constants: Constants | None = None

    @property
    def is_usable(self) -> bool:
        """Whether the parts as they are can be baked into a region."""
        has_zero_point = self.shift is not None or is_zero(self.zero_point)
        return self.is_exact and has_zero_point and self.watched.key is not None

    def _is_direct(self) -> bool:
        """Whether nothing but constants and one magnitude decides on the grid; finds the least."""
        limit = self.restriction.clamp_scaling.clamp_min_ste
        if type(limit) is ScalarSignedClampMinSte:
            self.smallest = limit.min_val
        has_numbers = (
            type(self.bits) is BitWidthConst
            and number_of(self.bits._modules["bit_width"]) is not None
            and type(self.int_scaling) in (IntScaling, PowerOfTwoIntScaling)
            and isinstance(self.int_scaling.signed, bool)
        )
        is_magnitude = (
            type(self.restriction.restrict_value_impl) is FloatRestrictValue
            and type(self.restriction.restrict_threshold_impl)
            in (FloatRestrictValue, LogFloatRestrictValue)
            and self.restriction.restrict_scale_threshold_impl is None
            and type(limit) in (Identity, ScalarSignedClampMinSte)
        )
        return has_numbers and is_magnitude and is_zero(self.zero_point)

    def direct_plan(self, rectifies: bool = False) -> FakeQuantPlan | None:
        """The plan of a call now that leaves out the parts; None where it has to call them.

        Args:
            rectifies: whether a rectified linear unit before the quantizer is part of it, which
                needs a smallest integer of zero.
        """
        is_delayed = self.delay is not None and self.delay.may_delay
        if not self.is_direct or self.plan is None or is_delayed or has_global_hooks():
            return None
        if not rectifies:
            return self.plan
        return None if self.int_quant.signed else replace(self.plan, rectifies=True)

    def is_of(self, parts: dict[str, Any]) -> bool:
        """True while the parts are those that it was made of, unchanged."""
        now = (
            parts["int_quant"],
            parts["scaling_impl"],
            parts["int_scaling_impl"],
            parts["zero_point_impl"],
            parts["msb_clamp_bit_width_impl"],
        )
        return now == self.parts and self.watched.is_current()

    def constants(self) -> Constants:
        """What a constant bit width decides; found anew where it moved or was replaced."""
        int_quant = self.int_quant
        bits, zero = self.bits._modules["bit_width"], self.zero_point._modules["zero_point"]
        sources = (bits._buffers["value"], zero._buffers["value"])
        numbers = (bits.number, zero.number, int_quant.signed, int_quant.narrow_range)
        if self._constants is None or not self._are_current(sources, numbers):
            self._made_of = (*sources, numbers)
            # A tensor made in inference mode could not take part in a later backward pass.
            with torch.inference_mode(False), torch.no_grad():
                bit_width = self.bits()
                threshold = self.int_scaling(bit_width)
                limits = constant_bounds(int_quant.signed, int_quant.narrow_range, bits.number)
                self._constants = Constants(bit_width, zero(), threshold, *limits)
        return self._constants

    def _are_current(self, sources: tuple[Tensor, Tensor], numbers: tuple[Any, ...]) -> bool:
        bit_width, zero_point, numbers_then = self._made_of
        return sources[0] is bit_width and sources[1] is zero_point and numbers == numbers_then

    def self_scaled(self, plan: FakeQuantPlan, shape: torch.Size) -> SelfScaledPlan:
        """How a tensor is quantized on the grid of its own largest magnitude."""
        constants, by_row = self.constants(), self.largest_in == "rows"
        limits = (constants.lower, constants.upper)
        return SelfScaledPlan(plan, *limits, self.smallest, by_row, shape)

    def scale_shape(self, x: Tensor) -> torch.Size | None:
        """Shape of the scale where it follows from the largest magnitudes of ``x``, or None."""
        if self.largest_in is None or len(self._tracked) != 1:
            return None
        if not x.is_contiguous():
            return self._fitting_shape(x)
        if x.shape != self._shape_asked:
            self._shape_asked, self._scale_shape = x.shape, self._fitting_shape(x)
        return self._scale_shape

    def _fitting_shape(self, x: Tensor) -> torch.Size | None:
        assert self._stated_shape is not None
        layout = layout_of(x, self._stated_shape)
        fits = layout is not None and layout.kind == self.largest_in
        return self._stated_shape if fits else None


def _shift_of(zero_point: Any) -> Any:
    """The part that turns a real offset into an integer, None where there is no offset."""
    return zero_point.scale_shift_zero_point if type(zero_point) in _ZERO_POINTS else None


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


def recipe_of(tensor_quant: Any) -> Recipe:
    """The recipe of a ``RescalingIntQuant``, made anew where a part was replaced or changed."""
    recipe, parts = tensor_quant.recipe, tensor_quant._modules
    if recipe is None or not recipe.is_of(parts):
        recipe = tensor_quant.recipe = Recipe(parts)
    return recipe
