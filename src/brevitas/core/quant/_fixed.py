"""The grid of a quantizer that does not depend on its input, evaluated once for many calls.

Layer: core (L3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from brevitas.core.quant._fused import bounds, is_zero
from brevitas.core.quant._plan import fake_quant_plan, is_plain
from brevitas.core.quant.int import RescalingIntQuant
from brevitas.core.quant.int_base import IntQuant
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

__all__ = ["FixedGrid", "fixed_grid", "joint_grid"]

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
    if type(tensor_quant) is not RescalingIntQuant or not is_plain(tensor_quant):
        return None
    parts: dict[str, Any] = tensor_quant._modules
    int_quant, bit_width_impl = parts["int_quant"], parts["msb_clamp_bit_width_impl"]
    scaling, zero_point_impl = parts["scaling_impl"], parts["zero_point_impl"]
    if type(int_quant) is not IntQuant or not is_plain(int_quant):
        return None
    plan, has_zero = fake_quant_plan(int_quant), is_zero(zero_point_impl)
    if plan is None or not _ignores_input(scaling):
        return None
    if not (has_zero or _ignores_input(zero_point_impl)):
        return None
    if not all(is_plain(parts[name]) for name in ("int_scaling_impl", "msb_clamp_bit_width_impl")):
        return None
    bit_width = bit_width_impl()
    nothing = bit_width.new_zeros(())
    scale = scaling(nothing, parts["int_scaling_impl"](bit_width))
    zero_point = zero_point_impl(nothing, scale, bit_width)
    shift = None if has_zero else zero_point
    return FixedGrid(
        scale, zero_point, bit_width, shift, *bounds(int_quant, bit_width_impl, bit_width), plan
    )


def _ignores_input(part: nn.Module) -> bool:
    """Whether a scaling or zero point gives the same for every input as long as nobody learns."""
    if not is_plain(part):
        return False
    if type(part) in _NEVER:
        return True
    if type(part) is RuntimeStatsScaling:
        return not part.training
    if type(part) in _WHEN_ALONE:
        return not _tracks_one(part)
    return type(part) in _WHILE_COLLECTING and not _looks_at_input(part)


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
