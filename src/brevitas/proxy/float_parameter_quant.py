"""Proxies of weights and biases that are quantized to minifloats. Layer: proxy (L4)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from brevitas.proxy._float_fields import FloatQuantProxyMixin
from brevitas.proxy.parameter_quant import (
    BiasQuantProxyFromInjectorBase,
    WeightQuantProxyFromInjectorBase,
)
from brevitas.quant_tensor import FloatQuantTensor, QuantTensor
from brevitas.utils.quant_utils import _CachedIOFloat

__all__ = [
    "BiasFloatQuantProxyFromInjector",
    "WeightFloatQuantProxyFromInjector",
    "WeightFloatQuantProxyFromInjectorBase",
]


class WeightFloatQuantProxyFromInjectorBase(FloatQuantProxyMixin, WeightQuantProxyFromInjectorBase):
    """A weight quantized to minifloats, of any kind of quant tensor."""

    cache_class = _CachedIOFloat

    def _field(self, name: str, force_eval: bool = True) -> Any:
        return self.retrieve_attribute(name)


class WeightFloatQuantProxyFromInjector(WeightFloatQuantProxyFromInjectorBase):
    """A weight quantized to minifloats: ``proxy(weight) -> FloatQuantTensor``.

    Example:
        >>> from brevitas.nn import QuantLinear
        >>> from brevitas.quant.float_quant_ocp import Fp8e4m3OCPWeightPerTensorFloat
        >>> layer = QuantLinear(2, 4, weight_quant=Fp8e4m3OCPWeightPerTensorFloat)
        >>> layer.weight_quant.exponent_bit_width(), layer.weight_quant.is_ocp
        (tensor(4.), True)
    """

    quant_tensor_class = FloatQuantTensor

    def create_quant_tensor(self, qt_args: tuple[Any, ...]) -> FloatQuantTensor:
        """Return the quant tensor of what ``FloatQuant`` returned."""
        return self.float_quant_tensor(qt_args)


class BiasFloatQuantProxyFromInjector(FloatQuantProxyMixin, BiasQuantProxyFromInjectorBase):
    """A bias quantized to minifloats, on a scale of its own: ``proxy(bias) -> FloatQuantTensor``.

    Example:
        >>> from brevitas.nn import QuantLinear
        >>> from brevitas.quant.float_base import FloatBase, Fp8e4m3Mixin
        >>> from brevitas.quant.solver import BiasQuantSolver
        >>> class Fp8e4m3Bias(Fp8e4m3Mixin, FloatBase, BiasQuantSolver):
        ...     proxy_class = BiasFloatQuantProxyFromInjector
        >>> type(QuantLinear(2, 4, bias_quant=Fp8e4m3Bias).quant_bias()).__name__
        'FloatQuantTensor'
    """

    cache_class = _CachedIOFloat

    def _field(self, name: str, force_eval: bool = True) -> Any:
        return self._retrieve(name)

    def create_quant_tensor(self, qt_args: tuple[Any, ...]) -> FloatQuantTensor:
        """Return the quant tensor of what ``FloatQuant`` returned."""
        return self.float_quant_tensor(qt_args)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Tensor, input_scale: Any = None, weight: Any = None
    ) -> Tensor | QuantTensor:
        """Quantize the bias ``x``; the accumulator's scale is not needed.

        Args:
            x: the bias.
            input_scale: what the layer passes of its input; not read.
            weight: what the layer passes of its weight; not read.
        """
        return super().forward(x, input_scale, weight)
