"""Proxies: one module per quantized tensor of a layer. Layer: proxy (L4)."""

from brevitas.proxy.parameter_quant import (
    BiasQuantProxyFromInjector,
    BiasQuantProxyFromInjectorBase,
    DecoupledWeightQuantProxyFromInjector,
    DecoupledWeightQuantWithInputProxyFromInjector,
    WeightQuantProxyFromInjector,
    WeightQuantProxyFromInjectorBase,
)
from brevitas.proxy.runtime_quant import (
    ActQuantProxyFromInjector,
    ActQuantProxyFromInjectorBase,
    ClampQuantProxyFromInjector,
    TruncQuantProxyFromInjector,
)

__all__ = [
    "ActQuantProxyFromInjector",
    "ActQuantProxyFromInjectorBase",
    "BiasQuantProxyFromInjector",
    "BiasQuantProxyFromInjectorBase",
    "ClampQuantProxyFromInjector",
    "DecoupledWeightQuantProxyFromInjector",
    "DecoupledWeightQuantWithInputProxyFromInjector",
    "TruncQuantProxyFromInjector",
    "WeightQuantProxyFromInjector",
    "WeightQuantProxyFromInjectorBase",
]
