"""Quantizers with everything that is constant in inference computed once. Layer: export (L8)."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor

from brevitas import config
from brevitas.core.quant._fused import quantize_program, value_in_region
from brevitas.core.quant.int import RescalingIntQuant
from brevitas.export.common.handler.base import BaseHandler
from brevitas.export.common.quantizer import quantizer_of
from brevitas.function.ops import max_int, min_int
from brevitas.ops.fake_quant import ROUNDING_MODES, FakeQuantPlan, fake_quant, to_integer
from brevitas.ops.region import Program, can_run_region
from brevitas.proxy.parameter_quant import WeightQuantProxyFromInjector
from brevitas.proxy.runtime_quant import (
    ActQuantProxyFromInjector,
    DynamicActQuantProxyFromInjector,
)

__all__ = ["InferenceHandler", "IntInferenceHandler", "IntWeightInferenceHandler", "is_handled"]


class InferenceHandler(BaseHandler):
    """Stands in for a quantizer in inference; it adds nothing to checkpoints."""

    @abstractmethod
    def quantize(self, x: Tensor) -> Tensor:
        """Return the integers of ``x``."""

    @abstractmethod
    def dequantize(self, x: Tensor) -> Tensor:
        """Return the real values of the integers ``x``."""

    def state_dict(self, *args: Any, destination: Any = None, **kwargs: Any) -> Any:
        """Return ``destination`` as it is: all of this is computed from the quantizer."""
        return {} if destination is None else destination


class IntInferenceHandler(InferenceHandler):
    """An activation at a fixed scale: ``forward(x) -> (value, scale, zero_point, bit_width)``.

    Buffers hold what was read off the quantizer, so that they follow the model between devices.
    """

    handled_layer = ActQuantProxyFromInjector

    scale: Tensor
    zero_point: Tensor
    bit_width: Tensor

    def prepare_for_export(self, module: Any) -> None:
        """Read scale, zero point, bit width and rounding."""
        self.plan = FakeQuantPlan(module.rounding_mode)
        for name in ("scale", "zero_point", "bit_width"):
            value = getattr(module, name)().detach().clone()
            self.register_buffer(name, value, persistent=False)
        signed, narrow = bool(module.is_signed), bool(module.is_narrow_range)
        self.lower = float(min_int(signed, narrow, float(self.bit_width)))
        self.upper = float(max_int(signed, narrow, float(self.bit_width)))
        self.has_offset = bool(self.zero_point.any())
        self.program_key = (self.plan, signed, narrow)

    @property
    def offset(self) -> Tensor | None:
        """The zero point, or None where it is zero and need not be added."""
        return self.zero_point if self.has_offset else None

    def quantize(self, x: Tensor) -> Tensor:
        """Return ``clamp(round(x / scale + zero_point), lower, upper)``."""
        return to_integer(x, self.scale, self.offset, self.lower, self.upper, self.plan.rounding)

    def dequantize(self, x: Tensor) -> Tensor:
        """Return ``(x - zero_point) * scale``."""
        return (x - self.zero_point) * self.scale

    def forward(self, x: Tensor, *unused: Any) -> tuple[Tensor, ...]:
        """Quantize and dequantize, under ``BREVITAS_JIT=1`` by a compiled kernel."""
        value = None
        if config.JIT_ENABLED and can_run_region(x):
            parameters = (self.scale, self.offset, self.bit_width)
            value = value_in_region(self.program_key, self._program, x, *parameters)
        if value is None:
            value = fake_quant(x, self.scale, self.offset, self.lower, self.upper, self.plan)
        return value, self.scale, self.zero_point, self.bit_width

    def _program(self) -> Program:
        return quantize_program(*self.program_key)


class IntWeightInferenceHandler(IntInferenceHandler):
    """A weight at a fixed scale."""

    handled_layer = WeightQuantProxyFromInjector


def is_handled(proxy: Any) -> bool:
    """Whether a proxy holds the plain integer quantizer at a scale that inputs do not change.

    Args:
        proxy: any proxy.

    Returns:
        False for minifloats, groups, dynamic scales and quantizers of a user's own, which run as
        they are.
    """
    if proxy.is_groupwise or isinstance(proxy, DynamicActQuantProxyFromInjector):
        return False
    if type(quantizer_of(proxy)) is not RescalingIntQuant:
        return False
    return proxy.rounding_mode in ROUNDING_MODES
