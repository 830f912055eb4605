"""Proxies of activations that are quantized to minifloats. Layer: proxy (L4)."""

from __future__ import annotations

from typing import Any

from brevitas.proxy._float_fields import FloatQuantProxyMixin
from brevitas.proxy.runtime_quant import ActQuantProxyFromInjectorBase, DynamicGridMixin
from brevitas.quant_tensor import FloatQuantTensor
from brevitas.utils.quant_utils import _CachedIOFloat

__all__ = [
    "ActFloatQuantProxyFromInjector",
    "ActFloatQuantProxyFromInjectorBase",
    "DynamicActFloatQuantProxyFromInjector",
]


class ActFloatQuantProxyFromInjectorBase(FloatQuantProxyMixin, ActQuantProxyFromInjectorBase):
    """An activation quantized to minifloats, of any kind of quant tensor."""

    cache_class = _CachedIOFloat

    def _field(self, name: str, force_eval: bool = True) -> Any:
        return self.retrieve_attribute(name, force_eval)


class ActFloatQuantProxyFromInjector(ActFloatQuantProxyFromInjectorBase):
    """An activation quantized to minifloats: ``proxy(x) -> FloatQuantTensor``.

    Example:
        >>> from brevitas.nn import QuantIdentity
        >>> from brevitas.quant.float import Fp8e5m2ActPerTensorFloat
        >>> proxy = QuantIdentity(act_quant=Fp8e5m2ActPerTensorFloat).act_quant
        >>> proxy.mantissa_bit_width(), proxy.bit_width()
        (tensor(2.), tensor(8.))
    """

    def create_quant_tensor(self, qt_args: tuple[Any, ...], x: Any = None) -> FloatQuantTensor:
        """Return the quant tensor of what ``FloatQuant`` returned."""
        return self.float_quant_tensor(qt_args)


class DynamicActFloatQuantProxyFromInjector(DynamicGridMixin, ActFloatQuantProxyFromInjector):
    """A minifloat activation whose scale is found anew for each input."""
