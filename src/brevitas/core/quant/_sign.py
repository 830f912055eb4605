"""What binary and ternary quantizers share: fused, or part by part. Layer: core (L3)."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from brevitas import config
from brevitas.core.bit_width.const import BitWidthConst
from brevitas.core.function_wrapper.misc import Identity
from brevitas.core.quant._fused import value_in_region
from brevitas.core.quant._parts import check_parts
from brevitas.core.quant._plan import may_fuse
from brevitas.core.quant.delay import DelayWrapper
from brevitas.core.quant.int import QuantOutput
from brevitas.core.utils import StatelessBuffer
from brevitas.ops.region import Program, can_run_region
from brevitas.ops.sign_quant import SignPlan, sign_quant
from brevitas.utils.torch_utils import widened

__all__ = ["SignQuant"]


class SignQuant(nn.Module, ABC):
    """A quantizer of signs, ``y = to_int(x) * scale``, in narrow range and without zero point.

    It runs as one operation where every part is ours and none carries a hook, and otherwise part
    by part, with equal values.

    Args:
        scaling_impl: ``x -> scale``, the positive real value of 1.
        bit_width: bits of the integers.
        quant_delay_steps: number of training steps that pass ``x`` through unchanged.
        dtype: dtype of bit width and zero point.
        device: device of bit width and zero point.
    """

    signed = True
    narrow_range = True

    def __init__(
        self,
        scaling_impl: nn.Module,
        bit_width: int,
        quant_delay_steps: int | None,
        dtype: torch.dtype | None,
        device: torch.device | None,
    ) -> None:
        super().__init__()
        check_parts(scaling_impl=scaling_impl)
        self.scaling_impl = scaling_impl
        self.bit_width = BitWidthConst(bit_width, dtype, device)
        self.zero_point = StatelessBuffer(0.0, dtype, device)
        self.delay_wrapper = DelayWrapper(quant_delay_steps)

    @property
    def rounding_mode(self) -> str:
        """``"ROUND"``: each element goes to the nearest value, in a binary quantizer 0 upwards."""
        return "ROUND"

    @property
    def input_view_impl(self) -> nn.Module:
        """View in which ``x`` is quantized: as it is."""
        return Identity()

    @property
    @abstractmethod
    def plan(self) -> SignPlan | None:
        """What the fused operation is to do; None where a part is not ours or hooked."""

    @abstractmethod
    def to_int(self, x: Tensor, scale: Tensor) -> Tensor:
        """Return the integers of ``x`` in a float tensor, through the parts."""

    @property
    def is_fused(self) -> bool:
        """True where the parts, as they are now, run as one operation."""
        return self.plan is not None and may_fuse(self.delay_wrapper)

    def forward(self, x: Tensor) -> QuantOutput:
        """Return ``(value, scale, zero_point, bit_width)`` of ``x``; the scale is never 0-d."""
        scale = self.scaling_impl(x)
        scale = scale.reshape(1) if scale.dim() == 0 else scale
        plan, x = self.plan, x if x.is_floating_point() else x.to(scale.dtype)
        if plan is not None and may_fuse(self.delay_wrapper):
            value = _fused_value(plan, x, scale)
        else:
            quantized = (self.to_int(widened(x), scale) * scale).to(x.dtype)
            value = self.delay_wrapper(x, quantized)
        return value, scale, self.zero_point(), self.bit_width()


def _fused_value(plan: SignPlan, x: Tensor, scale: Tensor) -> Tensor:
    """Take signs in one operation, compiled where asked for."""
    if config.JIT_ENABLED and can_run_region(x):
        value = value_in_region(plan, lambda: _program(plan), x, scale)
        if value is not None:
            return value
    return sign_quant(x, scale, plan)


def _program(plan: SignPlan) -> Program:
    return lambda x, scale: (sign_quant(x, scale, plan),)
