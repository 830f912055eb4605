"""Derives how an integer quantizer executes: fused, or module by module. Layer: core (L3).

The plan is a pure function of the parts as they are now. It is derived at every call, so that a
part that was replaced, hooked, parametrized or given another ``forward`` takes effect at once.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from brevitas.core.function_wrapper.clamp import TensorClamp
from brevitas.core.function_wrapper.misc import Identity
from brevitas.core.function_wrapper.ops_ste import (
    CeilSte,
    DPURoundSte,
    FloorSte,
    RoundSte,
    RoundToZeroSte,
    TensorClampSte,
)
from brevitas.core.function_wrapper.shape import (
    DynamicOverSubChannelBlockView,
    OverSubChannelBlockView,
)
from brevitas.core.quant.delay import DelayWrapper
from brevitas.ops.fake_quant import FakeQuantPlan

__all__ = [
    "CLAMP_PASSES_GRADIENT",
    "ROUNDING",
    "are_plain",
    "fake_quant_plan",
    "has_global_hooks",
    "is_plain",
    "may_fuse",
    "plan_without_delay",
    "rounding_mode_of",
    "viewed",
]

#: Roundings of ours that a fused operation can do, by their names in the QONNX specification.
ROUNDING: dict[type[nn.Module], str] = {
    RoundSte: "ROUND",
    CeilSte: "CEIL",
    FloorSte: "FLOOR",
    RoundToZeroSte: "ROUND_TO_ZERO",
    DPURoundSte: "DPU",
}
#: Clamps of ours: whether clamped elements still pass their gradient to the input.
CLAMP_PASSES_GRADIENT: dict[type[nn.Module], bool] = {TensorClamp: False, TensorClampSte: True}
# Views of ours: a fused operation runs on the tensor that they return.
_VIEWS = frozenset({Identity, OverSubChannelBlockView, DynamicOverSubChannelBlockView})
_PLANS: dict[tuple[type, type], FakeQuantPlan] = {
    (rounding_type, clamp_type): FakeQuantPlan(rounding, passes)
    for rounding_type, rounding in ROUNDING.items()
    for clamp_type, passes in CLAMP_PASSES_GRADIENT.items()
}


def rounding_mode_of(float_to_int_impl: nn.Module) -> str:
    """Name of a rounding part as the QONNX specification spells it, else its class name.

    Example:
        >>> rounding_mode_of(FloorSte())
        'FLOOR'
    """
    return ROUNDING.get(type(float_to_int_impl), type(float_to_int_impl).__name__)


def is_plain(module: nn.Module) -> bool:
    """True when calling ``module`` does nothing but its class's ``forward``: no hook, no override.

    Example:
        >>> is_plain(nn.ReLU())
        True
    """
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
    )


def has_global_hooks() -> bool:
    """True where a hook is set for all modules of the process.

    Example:
        >>> has_global_hooks()
        False
    """
    return bool(
        torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
    )


def are_plain(*modules: nn.Module) -> bool:
    """True when calling them does nothing but their ``forward``, and no hook is set for all.

    Example:
        >>> are_plain(nn.ReLU(), nn.Tanh())
        True
    """
    return not has_global_hooks() and all(is_plain(module) for module in modules)


def may_fuse(delay: nn.Module, *parts: nn.Module) -> bool:
    """True where the delay is over, and neither it nor another part carries a hook.

    Args:
        delay: decides between the real and the quantized value.
        *parts: all others that a fused operation would leave out.

    Example:
        >>> may_fuse(DelayWrapper(0), TensorClamp()), may_fuse(DelayWrapper(1))
        (True, False)
    """
    if type(delay) is not DelayWrapper or delay.may_delay:
        return False
    return are_plain(delay, delay.delay_impl, *parts)


def fake_quant_plan(int_quant: nn.Module) -> FakeQuantPlan | None:
    """Return the fused plan of an ``IntQuant``, or None where it runs module by module.

    Fused when rounding, clamp, delay and input view are ours by exact type (a subclass or a
    parametrized part is not) and none of them carries a hook.

    Args:
        int_quant: a module with the parts of ``brevitas.core.quant.IntQuant``.

    Example:
        >>> from brevitas.core.quant.int_base import IntQuant
        >>> fake_quant_plan(IntQuant(narrow_range=False, signed=True)).rounding
        'ROUND'
    """
    parts: dict[str, Any] = int_quant._modules
    plan = plan_without_delay(int_quant)
    others = (parts["float_to_int_impl"], parts["tensor_clamp_impl"], parts["input_view_impl"])
    return plan if plan is not None and may_fuse(parts["delay_wrapper"], *others) else None


def plan_without_delay(int_quant: nn.Module) -> FakeQuantPlan | None:
    """Return the fused plan of an ``IntQuant`` by the classes of its parts alone, or None.

    Args:
        int_quant: a module with the parts of ``brevitas.core.quant.IntQuant``.

    Example:
        >>> from brevitas.core.quant.int_base import IntQuant
        >>> plan_without_delay(IntQuant(narrow_range=False, signed=True)).rounding
        'ROUND'
    """
    parts: dict[str, Any] = int_quant._modules
    plan = _PLANS.get((type(parts["float_to_int_impl"]), type(parts["tensor_clamp_impl"])))
    is_ours = type(parts["input_view_impl"]) in _VIEWS
    return plan if is_ours and type(parts["delay_wrapper"]) is DelayWrapper else None


def viewed(int_quant: nn.Module, x: Tensor) -> Tensor:
    """Return ``x`` in the shape in which an ``IntQuant`` quantizes it: in groups, or as it is.

    Args:
        int_quant: a module with the parts of ``brevitas.core.quant.IntQuant``.
        x: the tensor to quantize.

    Example:
        >>> from brevitas.core.quant.int_base import IntQuant
        >>> in_groups = IntQuant(False, True, DynamicOverSubChannelBlockView(4, -1))
        >>> viewed(in_groups, torch.zeros(3, 10)).shape
        torch.Size([3, 3, 4])
    """
    view: Any = int_quant._modules["input_view_impl"]
    return x if type(view) is Identity else view(x)
