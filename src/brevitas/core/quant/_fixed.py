"""The grid of a quantizer that does not depend on its input, evaluated once for many calls.

Layer: core (L3).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from brevitas.core.bit_width.const import BitWidthConst
from brevitas.core.function_wrapper.misc import Identity
from brevitas.core.quant._fused import bounds, constant_bounds, is_zero, number_of
from brevitas.core.quant._plan import fake_quant_plan, is_plain
from brevitas.core.quant._recipe import Recipe, recipe_of
from brevitas.core.quant.int import PrescaledRestrictIntQuant, RescalingIntQuant
from brevitas.core.quant.int_base import IntQuant
from brevitas.core.scaling._restriction import ScaleSource
from brevitas.core.scaling.runtime import RuntimeStatsScaling, StatsFromParameterScaling
from brevitas.core.scaling.standalone import (
    ConstScaling,
    ParameterFromRuntimeStatsScaling,
    ParameterFromStatsFromParameterScaling,
    ParameterScaling,
)
from brevitas.core.zero_point import (
    ParameterFromRuntimeZeroPoint,
    ParameterFromStatsFromParameterZeroPoint,
    ParameterZeroPoint,
    StatsFromParameterZeroPoint,
)
from brevitas.ops.fake_quant import Bound, FakeQuantPlan, fake_quant

__all__ = ["FixedGrid", "GivenScale", "at_given_scale", "fixed_grid", "fixed_grids", "joint_grid"]

# Parts that never look at the input of the quantizer, and those that do while they collect.
_NEVER = (ConstScaling, ParameterScaling, ParameterZeroPoint)
_WHILE_COLLECTING = (ParameterFromRuntimeStatsScaling, ParameterFromRuntimeZeroPoint)
# Parts that read the parameter given to them where it is the only one that they track.
_WHEN_ALONE = (
    StatsFromParameterScaling,
    ParameterFromStatsFromParameterScaling,
    StatsFromParameterZeroPoint,
    ParameterFromStatsFromParameterZeroPoint,
)
# Parts that call no other one to read their value.
_CALLS_NOTHING = (ParameterScaling, ParameterFromRuntimeStatsScaling)


class FixedGrid(NamedTuple):
    """Everything that the fused operation needs besides the tensor to quantize."""

    scale: Tensor
    zero_point: Tensor
    bit_width: Tensor
    #: The zero point, or None where it is zero by construction.
    shift: Tensor | None
    lower: Bound
    upper: Bound
    plan: FakeQuantPlan

    def quantize(self, x: Tensor) -> Tensor:
        """Return ``x`` on the grid, in one differentiable operation."""
        return fake_quant(x, self.scale, self.shift, self.lower, self.upper, self.plan)


def fixed_grid(tensor_quant: nn.Module | None) -> FixedGrid | None:
    """Evaluate scale, zero point and limits; None where the quantizer has to be called itself.

    That is the case while statistics are collected, where the scale follows the input, and where
    a part is not the library's own or carries a hook, which counts calls.

    Args:
        tensor_quant: a quantizer of activations, or of parameters that share it.

    Example:
        >>> from brevitas.nn import QuantHardTanh
        >>> quantizer = QuantHardTanh(min_val=-1.0, max_val=1.0, bit_width=3).act_quant
        >>> grid = fixed_grid(quantizer.fused_activation_quant_proxy.tensor_quant)
        >>> grid.quantize(torch.tensor([0.3, 9.0])).tolist(), grid.upper
        ([0.25, 0.75], 3.0)
    """
    return fixed_grids([tensor_quant])[0]


def fixed_grids(tensor_quants: Sequence[nn.Module | None]) -> list[FixedGrid | None]:
    """Evaluate the grids of several quantizers; those of one kind in one go.

    Args:
        tensor_quants: quantizers, see ``fixed_grid``; one that comes twice is evaluated once.

    Returns:
        The grid of each; None where it has to be called itself.

    Example:
        >>> from brevitas.nn import QuantHardTanh
        >>> layer = QuantHardTanh(min_val=-1.0, max_val=1.0, bit_width=3)
        >>> quantizer = layer.act_quant.fused_activation_quant_proxy.tensor_quant
        >>> first, second = fixed_grids([quantizer, quantizer])
        >>> first is second
        True
    """
    found: dict[int, FixedGrid | None] = {}
    alike: dict[Hashable, list[_Fixed]] = {}
    for tensor_quant in tensor_quants:
        if id(tensor_quant) in found:
            continue
        found[id(tensor_quant)] = None
        fixed = _fixed(tensor_quant)
        if fixed is not None:
            alike.setdefault(fixed.kind(), []).append(fixed)
    for group in alike.values():
        grids = _together(group) if len(group) > 1 else [group[0].grid()]
        found.update(
            (id(fixed.tensor_quant), grid) for fixed, grid in zip(group, grids, strict=True)
        )
    return [found[id(tensor_quant)] for tensor_quant in tensor_quants]


class _Fixed(NamedTuple):
    """A quantizer whose grid does not depend on its input."""

    tensor_quant: Any
    plan: FakeQuantPlan
    has_zero: bool
    #: What is known of its parts, where only the magnitude of its scale has to be computed.
    recipe: Recipe | None = None

    def kind(self) -> Hashable:
        """Equal for quantizers whose scales are made by one rule; unique for any other."""
        recipe = self.recipe
        if recipe is None:
            return id(self.tensor_quant)
        constants = recipe.constants()
        limits = (constants.lower, constants.upper, id(self.plan))
        where = (constants.bit_width.dtype, constants.bit_width.device)
        return type(recipe.scaling), recipe.watched.number, *limits, *where

    def grid(self) -> FixedGrid:
        """Return the grid, of which every part is called."""
        parts = self.tensor_quant._modules
        bit_width_impl = parts["msb_clamp_bit_width_impl"]
        bit_width = bit_width_impl()
        nothing = bit_width.new_zeros(())
        scale = parts["scaling_impl"](nothing, parts["int_scaling_impl"](bit_width))
        zero_point = parts["zero_point_impl"](nothing, scale, bit_width)
        limits = bounds(parts["int_quant"], bit_width_impl, bit_width)
        shift = None if self.has_zero else zero_point
        return FixedGrid(scale, zero_point, bit_width, shift, *limits, self.plan)


def _together(group: Sequence[_Fixed]) -> list[FixedGrid]:
    """Grids of quantizers of one kind: one computation for all scales."""
    recipes = [fixed.recipe for fixed in group if fixed.recipe is not None]
    constants, restriction = recipes[0].constants(), recipes[0].restriction
    nothing = constants.bit_width.new_zeros(())
    sources = [recipe.scaling.read(nothing) for recipe in recipes]
    first, threshold = sources[0], constants.threshold
    alike = {(source.kind, source.tensor.shape, source.tensor.dtype) for source in sources}
    if len(alike) == 1:
        stacked = torch.stack([source.tensor for source in sources])
        scales = restriction.scale_of(ScaleSource(first.kind, stacked), threshold).unbind(0)
    else:
        scales = [restriction.scale_of(source, threshold) for source in sources]
    fields = (constants.zero_point, constants.bit_width, None, constants.lower, constants.upper)
    return [FixedGrid(scale, *fields, group[0].plan) for scale in scales]


class GivenScale(NamedTuple):
    """What a quantizer does at a scale that it is given: limits and rounding."""

    lower: Bound
    upper: Bound
    plan: FakeQuantPlan


def at_given_scale(tensor_quant: nn.Module | None) -> GivenScale | None:
    """Limits of a quantizer of biases; None where it has to be called itself.

    Args:
        tensor_quant: a quantizer that takes its scale as an argument.

    Example:
        >>> from brevitas.core.quant import IntQuant
        >>> int_quant = IntQuant(narrow_range=False, signed=True)
        >>> at_given_scale(PrescaledRestrictIntQuant(int_quant, BitWidthConst(4)))[:2]
        (-8.0, 7.0)
    """
    if type(tensor_quant) is not PrescaledRestrictIntQuant or not is_plain(tensor_quant):
        return None
    parts: dict[str, Any] = tensor_quant._modules
    int_quant, bit_width_impl = parts["int_quant"], parts["msb_clamp_bit_width_impl"]
    if type(int_quant) is not IntQuant or type(bit_width_impl) is not BitWidthConst:
        return None
    if type(int_quant.input_view_impl) is not Identity or number_of(parts["zero_point"]) != 0.0:
        return None
    plan = fake_quant_plan(int_quant)
    if plan is None or not (is_plain(int_quant) and _is_plain_inside(bit_width_impl)):
        return None
    return GivenScale(
        *constant_bounds(int_quant.signed, int_quant.narrow_range, bit_width_impl.number), plan
    )


def _fixed(tensor_quant: nn.Module | None) -> _Fixed | None:
    if type(tensor_quant) is not RescalingIntQuant or not is_plain(tensor_quant):
        return None
    parts: dict[str, Any] = tensor_quant._modules
    int_quant, zero_point_impl = parts["int_quant"], parts["zero_point_impl"]
    # A compiler would trace how quantizers are told apart.
    if not torch.compiler.is_compiling():
        recipe = recipe_of(tensor_quant)
        plan = recipe.direct_plan()
        if plan is not None and _ignores_input(recipe.scaling, is_known=True):
            return _Fixed(tensor_quant, plan, True, recipe)
    if type(int_quant) is not IntQuant or not is_plain(int_quant):
        return None
    plan, has_zero = fake_quant_plan(int_quant), is_zero(zero_point_impl)
    if plan is None or not _ignores_input(parts["scaling_impl"]):
        return None
    if not (has_zero or _ignores_input(zero_point_impl)):
        return None
    called = (parts["msb_clamp_bit_width_impl"], parts["int_scaling_impl"])
    if not all(map(_is_plain_inside, called)):
        return None
    return _Fixed(tensor_quant, plan, has_zero)


def _is_plain_inside(module: nn.Module) -> bool:
    """Whether neither a module nor any inside of it carries a hook, which counts calls."""
    if not is_plain(module):
        return False
    for child in module._modules.values():
        if child is not None and not _is_plain_inside(child):
            return False
    return True


def _ignores_input(part: nn.Module, is_known: bool = False) -> bool:
    """Whether a scaling or zero point gives the same for every input as long as nobody learns.

    Args:
        part: the scaling or zero point.
        is_known: whether it is watched already, with all that follows what it reads.
    """
    kind = type(part)
    if kind is RuntimeStatsScaling:
        ignores = not part.training
    elif kind in _WHEN_ALONE:
        ignores = not _tracks_one(part)
    else:
        ignores = kind in _NEVER or (kind in _WHILE_COLLECTING and not _looks_at_input(part))
    return ignores and ((is_known and kind in _CALLS_NOTHING) or _is_plain_inside(part))


def _looks_at_input(part: Any) -> bool:
    return part.training and part.counts_forwards


def _tracks_one(part: Any) -> bool:
    return len(part.parameter_list_stats._tracked[0]) == 1


def joint_grid(grids: Sequence[FixedGrid], rows: int = 1) -> FixedGrid | None:
    """One grid for several tensors, side by side or one below the other: that of each one.

    Args:
        grids: the grid of each tensor, without zero point: with one scale, or one for each row.
        rows: rows of each tensor, where they are one below the other, ``[n * rows, size]``; by
            default they are side by side, ``[..., n, size]``.

    Returns:
        The grid with fields ``[n * rows, 1]``; None where the grids cannot share one operation.

    Example:
        >>> from brevitas.nn import QuantHardTanh
        >>> quantizers = [QuantHardTanh(min_val=-1.0, max_val=m).act_quant for m in (1.0, 2.0)]
        >>> grids = [fixed_grid(q.fused_activation_quant_proxy.tensor_quant) for q in quantizers]
        >>> joint_grid(grids).scale.shape
        torch.Size([2, 1])
    """
    first = grids[0]
    if all(grid is first for grid in grids):
        return first
    scales = [grid.scale for grid in grids]
    fit = all(scale.numel() == 1 or scale.shape == (rows, 1) for scale in scales)
    if not fit or any(grid.shift is not None or grid.plan != first.plan for grid in grids):
        return None
    return first._replace(
        scale=_column(scales, rows),
        zero_point=_column([grid.zero_point for grid in grids], rows),
        lower=_bound([grid.lower for grid in grids], first.scale, rows),
        upper=_bound([grid.upper for grid in grids], first.scale, rows),
    )


def _column(fields: Sequence[Tensor], rows: int) -> Tensor:
    """Fields one below the other, each as many times as its tensor has rows."""
    if all(field.numel() == 1 for field in fields):
        column = torch.stack([field.reshape(1) for field in fields])
        return column if rows == 1 else column.repeat_interleave(rows, dim=0)
    return torch.cat([field.expand(rows, 1) for field in fields])


def _bound(fields: Sequence[Bound], like: Tensor, rows: int) -> Bound:
    first = fields[0]
    if all(not isinstance(field, Tensor) and field == first for field in fields):
        return first
    tensors = [f if isinstance(f, Tensor) else like.new_tensor(f) for f in fields]
    return _column([tensor.to(like) for tensor in tensors], rows)
