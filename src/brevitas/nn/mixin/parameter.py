"""Layers with a quantized weight and a quantized bias. Layer: nn (L6)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from brevitas.inject import InjectorMeta
from brevitas.nn.mixin._older_names import with_older_names
from brevitas.nn.mixin.base import KeywordReport, QuantProxyMixin
from brevitas.proxy.parameter_quant import (
    BiasQuantProxyFromInjectorBase,
    WeightQuantProxyFromInjectorBase,
)
from brevitas.proxy.quant_proxy import QuantProxyProtocol
from brevitas.quant.none import NoneBiasQuant, NoneWeightQuant
from brevitas.quant_tensor import QuantTensor

__all__ = ["BiasQuantType", "QuantBiasMixin", "QuantWeightMixin", "WeightQuantType"]

WeightQuantType = QuantProxyProtocol | InjectorMeta
BiasQuantType = QuantProxyProtocol | InjectorMeta


@with_older_names("weight")
class QuantWeightMixin(QuantProxyMixin):
    """Attaches ``weight_quant``; keywords that start with ``weight_`` go to it."""

    weight: nn.Parameter
    weight_quant: Any

    @property
    def output_channel_dim(self) -> int:
        """Dimension of the weight that counts output channels; the first one by default."""
        return 0

    def __init__(self, weight_quant: Any, **kwargs: Any) -> None:
        self.attach_weight_quant(weight_quant, KeywordReport(self, kwargs))

    def attach_weight_quant(self, weight_quant: Any, report: KeywordReport) -> None:
        """Build or share the quantizer of the weight."""
        base = WeightQuantProxyFromInjectorBase
        self.attach_quantizer(weight_quant, NoneWeightQuant, "weight_", "weight_", report, base)

    def quant_weight(
        self,
        quant_input: QuantTensor | None = None,
        subtensor_slice_list: list[tuple[int, int] | None] | None = None,
    ) -> Tensor | QuantTensor:
        """Return the quantized weight; a plain tensor where it is not quantized.

        Args:
            quant_input: quantized input, for quantizers that depend on it.
            subtensor_slice_list: (start, stop) per dimension to return a part of the weight.
        """
        proxy = self.weight_quant
        if proxy.requires_quant_input:
            quantized = proxy(self.weight, quant_input)
        else:
            quantized = proxy(self.weight)
        if subtensor_slice_list is None:
            return quantized
        parts = subtensor_slice_list
        return quantized[tuple(slice(*part) if part else slice(None) for part in parts)]

    def reset_parameters(self) -> None:
        """Draw new parameters; the quantizer's learned values start anew with them."""
        super().reset_parameters()  # type: ignore[misc]
        self.restart_quantizer("weight", "weight")

    def register_parameter(self, name: str, value: nn.Parameter | None) -> None:
        """Register a parameter; a new weight starts its quantizer's learned values anew."""
        super().register_parameter(name, value)  # type: ignore[misc]
        self.restart_quantizer(name, "weight")


@with_older_names("bias")
class QuantBiasMixin(QuantProxyMixin):
    """Attaches ``bias_quant``; keywords that start with ``bias_`` go to it."""

    bias: nn.Parameter | None
    bias_quant: Any

    def __init__(self, bias_quant: Any, cache_inference_bias: bool = False, **kwargs: Any) -> None:
        self.attach_bias_quant(bias_quant, KeywordReport(self, kwargs), cache_inference_bias)

    def attach_bias_quant(
        self, bias_quant: Any, report: KeywordReport, cache_inference_bias: bool = False
    ) -> None:
        """Build or share the quantizer of the bias."""
        base = BiasQuantProxyFromInjectorBase
        self.attach_quantizer(bias_quant, NoneBiasQuant, "bias_", "bias_", report, base)
        self.bias_quant.cache_inference_quant_bias = cache_inference_bias

    def quant_bias(self) -> Tensor | QuantTensor | None:
        """Return the quantized bias; plain where it is not quantized, None where there is none.

        Raises:
            QuantLayerConfigurationError: for a bias at the accumulator's scale, which is known
                only inside a forward pass, or afterwards with ``cache_inference_bias=True``.
        """
        return None if self.bias is None else self.bias_quant(self.bias)

    def reset_parameters(self) -> None:
        """Draw new parameters; the quantizer's learned values start anew with them."""
        super().reset_parameters()  # type: ignore[misc]
        self.restart_quantizer("bias", "bias")

    def register_parameter(self, name: str, value: nn.Parameter | None) -> None:
        """Register a parameter; a new bias starts its quantizer's learned values anew."""
        super().register_parameter(name, value)  # type: ignore[misc]
        self.restart_quantizer(name, "bias")
