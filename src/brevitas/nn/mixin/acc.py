"""Layers with a quantized accumulator. Layer: nn (L6)."""

from __future__ import annotations

from typing import Any

from brevitas.inject import InjectorMeta
from brevitas.nn.mixin.base import KeywordReport, QuantProxyMixin
from brevitas.proxy.quant_proxy import QuantProxyProtocol
from brevitas.proxy.runtime_quant import AccQuantProxyFromInjectorBase
from brevitas.quant.none import NoneClampQuant, NoneTruncQuant

__all__ = ["AccQuantType", "QuantClampMixin", "TruncMixin"]

AccQuantType = QuantProxyProtocol | InjectorMeta


class TruncMixin(QuantProxyMixin):
    """Attaches ``trunc_quant``; keywords without a prefix go to it."""

    trunc_quant: Any

    def __init__(self, trunc_quant: Any, **kwargs: Any) -> None:
        self.attach_trunc_quant(trunc_quant, KeywordReport(self, kwargs))

    def attach_trunc_quant(self, trunc_quant: Any, report: KeywordReport) -> None:
        """Build or share the quantizer that drops low bits of the accumulator."""
        base = AccQuantProxyFromInjectorBase
        self.attach_quantizer(trunc_quant, NoneTruncQuant, "trunc_", "", report, base)

    @property
    def is_trunc_quant_enabled(self) -> bool:
        """True where the accumulator is truncated."""
        return self.trunc_quant.is_quant_enabled


class QuantClampMixin(QuantProxyMixin):
    """Attaches ``clamp_quant``; keywords without a prefix go to it."""

    clamp_quant: Any

    def __init__(self, clamp_quant: Any, **kwargs: Any) -> None:
        self.attach_clamp_quant(clamp_quant, KeywordReport(self, kwargs))

    def attach_clamp_quant(self, clamp_quant: Any, report: KeywordReport) -> None:
        """Build or share the quantizer that drops high bits of the accumulator."""
        base = AccQuantProxyFromInjectorBase
        self.attach_quantizer(clamp_quant, NoneClampQuant, "clamp_", "", report, base)

    @property
    def is_clamp_quant_enabled(self) -> bool:
        """True where the accumulator is clamped."""
        return self.clamp_quant.is_quant_enabled

    @property
    def is_quant_clamp_narrow_range(self) -> bool | None:
        """True where one integer is left out for symmetry; None where nothing is clamped."""
        return self.clamp_quant.is_narrow_range

    @property
    def is_quant_clamp_signed(self) -> bool | None:
        """True for signed integers; None where nothing is clamped."""
        return self.clamp_quant.is_signed
