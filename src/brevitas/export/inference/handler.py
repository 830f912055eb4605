"""Quantizers with everything that is constant in inference computed once. Layer: export (L8)."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from brevitas.export.common.handler.base import BaseHandler
from brevitas.function.ops import max_int, min_int
from brevitas.ops.fake_quant import FakeQuantPlan, ROUNDING_MODES, fake_quant, to_integer
from brevitas.proxy.parameter_quant import WeightQuantProxyFromInjector
from brevitas.proxy.runtime_quant import ActQuantProxyFromInjector

__all__ = ["InferenceHandler", "IntInferenceHandler", "IntWeightInferenceHandler"]


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

    def prepare_for_export(self, module: nn.Module) -> None:
        """Read scale, zero point, bit width and rounding."""
        rounding = module.rounding_mode
        if rounding not in ROUNDING_MODES:
            raise RuntimeError(
                f"rounding_mode={rounding!r}: expected one of {', '.join(ROUNDING_MODES)}. "
                f"Layer: {module.export_debug_name}"
            )
        self.plan = FakeQuantPlan(rounding)
        for name in ("scale", "zero_point", "bit_width"):
            value = getattr(module, name)().detach().clone()
            self.register_buffer(name, value, persistent=False)
        signed, narrow = bool(module.is_signed), bool(module.is_narrow_range)
        self.lower = float(min_int(signed, narrow, float(self.bit_width)))
        self.upper = float(max_int(signed, narrow, float(self.bit_width)))
        self.offset = self.zero_point if bool(self.zero_point.any()) else None

    def quantize(self, x: Tensor) -> Tensor:
        """Return ``clamp(round(x / scale + zero_point), lower, upper)``."""
        return to_integer(x, self.scale, self.offset, self.lower, self.upper, self.plan.rounding)

    def dequantize(self, x: Tensor) -> Tensor:
        """Return ``(x - zero_point) * scale``."""
        return (x - self.zero_point) * self.scale

    def forward(self, x: Tensor, *unused: Any) -> tuple[Tensor, ...]:
        """Quantize and dequantize."""
        value = fake_quant(x, self.scale, self.offset, self.lower, self.upper, self.plan)
        return value, self.scale, self.zero_point, self.bit_width


class IntWeightInferenceHandler(IntInferenceHandler):
    """A weight at a fixed scale, quantized anew for each call, or once.

    Attributes:
        cache: keep the quantized weight; set before the first call.
    """

    handled_layer = WeightQuantProxyFromInjector

    def __init__(self) -> None:
        super().__init__()
        self.cache = False
        self.register_buffer("value", None, persistent=False)

    def forward(self, x: Tensor, *unused: Any) -> tuple[Tensor, ...]:
        """Quantize and dequantize, or return what an earlier call computed."""
        if self.value is not None:
            return self.value, self.scale, self.zero_point, self.bit_width
        outputs = super().forward(x)
        if self.cache:
            self.value = outputs[0].detach()
        return outputs
