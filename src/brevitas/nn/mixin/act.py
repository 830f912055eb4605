"""Layers with a quantized input, output or activation. Layer: nn (L6)."""

from __future__ import annotations

from typing import Any

from torch import nn

from brevitas.inject import InjectorMeta
from brevitas.nn.mixin._older_names import with_older_names
from brevitas.nn.mixin.base import KeywordReport, QuantProxyMixin
from brevitas.proxy.quant_proxy import QuantProxyProtocol
from brevitas.proxy.runtime_quant import ActQuantProxyFromInjectorBase
from brevitas.quant.none import NoneActQuant

__all__ = ["ActQuantType", "QuantInputMixin", "QuantNonLinearActMixin", "QuantOutputMixin"]

ActQuantType = QuantProxyProtocol | InjectorMeta


@with_older_names("input")
class QuantInputMixin(QuantProxyMixin):
    """Attaches ``input_quant``; keywords that start with ``input_`` go to it."""

    input_quant: Any

    def __init__(self, input_quant: Any, **kwargs: Any) -> None:
        self.attach_input_quant(input_quant, KeywordReport(self, kwargs))

    def attach_input_quant(self, input_quant: Any, report: KeywordReport, **extra: Any) -> None:
        """Build or share the quantizer of the input."""
        base = ActQuantProxyFromInjectorBase
        self.attach_quantizer(input_quant, NoneActQuant, "input_", "input_", report, base, **extra)


@with_older_names("output")
class QuantOutputMixin(QuantProxyMixin):
    """Attaches ``output_quant``; keywords that start with ``output_`` go to it."""

    output_quant: Any

    def __init__(self, output_quant: Any, **kwargs: Any) -> None:
        self.attach_output_quant(output_quant, KeywordReport(self, kwargs))

    def attach_output_quant(self, output_quant: Any, report: KeywordReport, **extra: Any) -> None:
        """Build or share the quantizer of the output."""
        base = ActQuantProxyFromInjectorBase
        prefix = "output_"
        self.attach_quantizer(output_quant, NoneActQuant, prefix, prefix, report, base, **extra)


@with_older_names("act")
class QuantNonLinearActMixin(QuantProxyMixin):
    """Attaches ``act_quant`` with its activation function; keywords without a prefix go to it."""

    act_quant: Any

    def __init__(
        self,
        act_impl: type[nn.Module] | None,
        passthrough_act: bool,
        act_quant: Any,
        act_proxy_prefix: str = "act_",
        act_kwargs_prefix: str = "",
        **kwargs: Any,
    ) -> None:
        prefixes = (act_proxy_prefix, act_kwargs_prefix)
        report = KeywordReport(self, kwargs)
        self.attach_act_quant(act_quant, act_impl, passthrough_act, report, *prefixes)

    def attach_act_quant(
        self,
        act_quant: Any,
        act_impl: type[nn.Module] | None,
        passthrough_act: bool,
        report: KeywordReport,
        act_proxy_prefix: str = "act_",
        act_kwargs_prefix: str = "",
    ) -> None:
        """Build or share the quantizer of the activation function's output."""
        extra: dict[str, Any] = {"passthrough_act": passthrough_act}
        if act_impl is not None:
            extra["act_impl"] = act_impl
        base = ActQuantProxyFromInjectorBase
        self.attach_quantizer(
            act_quant, NoneActQuant, act_proxy_prefix, act_kwargs_prefix, report, base, **extra
        )
