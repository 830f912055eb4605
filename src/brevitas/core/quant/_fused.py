"""The fused path of an integer quantizer: one operation, eager or compiled. Layer: core (L3)."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from torch import Tensor, nn

from brevitas.core.bit_width.const import BitWidthConst
from brevitas.core.quant._plan import is_plain
from brevitas.core.utils import StatelessBuffer
from brevitas.core.zero_point import ZeroZeroPoint
from brevitas.function.ops import max_int, min_int
from brevitas.ops.fake_quant import Bound, FakeQuantPlan, fake_quant
from brevitas.ops.layout import layout_of
from brevitas.ops.region import Program, Region

__all__ = [
    "bounds",
    "constant_bounds",
    "is_zero",
    "number_of",
    "quantize_program",
    "value_in_region",
]

_VALUE_REGIONS: dict[Hashable, Region] = {}


def number_of(buffer: nn.Module | None) -> float | None:
    """The constant of a buffer of ours that is not hooked, None for anything else.

    Example:
        >>> number_of(StatelessBuffer(3.0))
        3.0
    """
    return buffer.number if type(buffer) is StatelessBuffer and is_plain(buffer) else None


def is_zero(zero_point_impl: nn.Module) -> bool:
    """True where a zero point is known to be zero without looking at the tensor.

    Example:
        >>> is_zero(ZeroZeroPoint())
        True
    """
    if type(zero_point_impl) is ZeroZeroPoint and is_plain(zero_point_impl):
        return number_of(zero_point_impl._modules.get("zero_point")) == 0.0
    return False


def constant_bounds(signed: bool, narrow_range: bool, bit_width: float) -> tuple[float, float]:
    """Smallest and largest integer of a format.

    Example:
        >>> constant_bounds(True, False, 8)
        (-128.0, 127.0)
    """
    return min_int(signed, narrow_range, bit_width), max_int(signed, narrow_range, bit_width)


def bounds(int_quant: Any, bit_width_impl: nn.Module, bit_width: Tensor) -> tuple[Bound, Bound]:
    """Integer limits: plain numbers for a constant bit width, tensors for a learned one."""
    if type(bit_width_impl) is BitWidthConst and is_plain(bit_width_impl):
        number = number_of(bit_width_impl._modules.get("bit_width"))
        if number is not None:
            return constant_bounds(int_quant.signed, int_quant.narrow_range, number)
    return int_quant.min_int(bit_width), int_quant.max_int(bit_width)


def quantize_program(plan: FakeQuantPlan, signed: bool, narrow_range: bool) -> Program:
    """The fused operation as a program of a region, see ``brevitas.ops.region``."""

    def program(
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        bit_width: Tensor,
        *output_grid: Tensor | None,
    ) -> tuple[Tensor]:
        lower, upper = (limit(signed, narrow_range, bit_width) for limit in (min_int, max_int))
        return (fake_quant(x, scale, zero_point, lower, upper, plan, *output_grid),)

    return program


def value_in_region(
    key: Hashable, make_program: Callable[[], Program], x: Tensor, *parameters: Tensor | None
) -> Tensor | None:
    """Return the quantized value of ``x``, compiled; None where no kernel serves these shapes.

    Args:
        key: tells the program from all others.
        make_program: makes the region's program, which returns the value alone.
        x: a tensor on which a region can run.
        *parameters: the program's further arguments.
    """
    layout = layout_of(x, *(p.shape for p in parameters if p is not None))
    if layout is None:
        return None
    if key not in _VALUE_REGIONS:
        _VALUE_REGIONS[key] = Region(make_program())
    outputs = _VALUE_REGIONS[key](layout, (), x, *parameters)
    return None if outputs is None else outputs[0]
