"""Proxies: one module per quantized tensor of a layer. Layer: proxy (L4)."""

from brevitas.proxy.float_parameter_quant import WeightFloatQuantProxyFromInjector
from brevitas.proxy.float_runtime_quant import ActFloatQuantProxyFromInjector
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
    "ActFloatQuantProxyFromInjector",
    "ActQuantProxyFromInjector",
    "ActQuantProxyFromInjectorBase",
    "BiasQuantProxyFromInjector",
    "BiasQuantProxyFromInjectorBase",
    "ClampQuantProxyFromInjector",
    "DecoupledWeightQuantProxyFromInjector",
    "DecoupledWeightQuantWithInputProxyFromInjector",
    "TruncQuantProxyFromInjector",
    "WeightFloatQuantProxyFromInjector",
    "WeightQuantProxyFromInjector",
    "WeightQuantProxyFromInjectorBase",
]
