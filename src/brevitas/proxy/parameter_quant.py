"""Proxies of weights and biases. Layer: proxy (L4)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from brevitas import config
from brevitas.common import QuantLayerConfigurationError
from brevitas.function.ops import max_int
from brevitas.inject import InjectorMeta
from brevitas.proxy._tracked import TrackedParameters
from brevitas.proxy.quant_proxy import QuantProxyFromInjector, QuantProxyProtocol
from brevitas.quant_tensor import IntQuantTensor, QuantTensor
from brevitas.utils.quant_utils import _CachedIO

__all__ = [
    "BiasQuantProxyFromInjector",
    "BiasQuantProxyFromInjectorBase",
    "BiasQuantProxyProtocol",
    "WeightQuantProxyFromInjector",
    "WeightQuantProxyFromInjectorBase",
    "WeightQuantProxyProtocol",
]

WeightQuantProxyProtocol = QuantProxyProtocol
BiasQuantProxyProtocol = QuantProxyProtocol

INPUT_SCALE_REQUIRED = (
    "QuantLayer is not correctly configured, check if warnings were raised. "
    "Input scale required: the bias is quantized at the scale of the accumulator, which needs a "
    "quantized input and a quantized weight. Pass a QuantTensor, set `input_quant` (e.g. "
    "Int8ActPerTensorFloat), or use a bias quantizer with a scale of its own (e.g. "
    "Int8BiasPerTensorFloatInternalScaling)."
)


class ParameterQuantProxyFromInjector(QuantProxyFromInjector):
    """A quantized parameter; its statistics follow the parameter wherever it is replaced."""

    parameter_name = "weight"

    @property
    def tracked_parameter_list(self) -> list[Tensor]:
        """The parameters that share the quantizer, as their layers hold them now."""
        return list(TrackedParameters(self.tracked_module_list, self.parameter_name))

    def bound_injector(self) -> InjectorMeta:
        """Return the declaration with the layers and parameters that it is built for."""
        tracked = TrackedParameters(self.tracked_module_list, self.parameter_name)
        return super().bound_injector().let(tracked_parameter_list=tracked)

    def init_tensor_quant(self, preserve_state_dict: bool = False) -> None:
        """Build the tensor quantizer anew, or reset it where it exists already.

        Parameters of an existing quantizer are written in place, so that an optimizer that
        holds them keeps training them.

        Args:
            preserve_state_dict: keep the learned values instead of resetting them.
        """
        tracked = self.tracked_parameter_list
        fresh = self.bound_injector().tensor_quant if tracked else None
        if fresh is not None:
            fresh.to(device=tracked[0].device, dtype=tracked[0].dtype)
        current = self.tensor_quant
        if current is None or fresh is None or not _same_state(current, fresh):
            if preserve_state_dict and current is not None and fresh is not None:
                fresh.load_state_dict(current.state_dict(), strict=False)
            self.tensor_quant = fresh
        elif not preserve_state_dict:
            self.tensor_quant = _reset_in_place(current, fresh)

    def max_uint_value(self, bit_width: Tensor) -> Tensor:
        """Largest magnitude as an unsigned integer, ``2**b - 1`` or less in narrow range."""
        return max_int(False, bool(self.is_narrow_range), bit_width)

    def _load_from_state_dict(self, *args: Any) -> None:
        if config.REINIT_ON_STATE_DICT_LOAD:
            self.init_tensor_quant()
        super()._load_from_state_dict(*args)


def _signature(module: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(p.shape)) for name, p in module.named_parameters()]


def _same_state(current: nn.Module, fresh: nn.Module) -> bool:
    return type(current) is type(fresh) and _signature(current) == _signature(fresh)


def _reset_in_place(current: nn.Module, fresh: nn.Module) -> nn.Module:
    """Put the parameter objects of ``current``, with fresh values, into ``fresh``."""
    owners = dict(fresh.named_modules())
    for name, parameter in list(current.named_parameters()):
        prefix, _, attribute = name.rpartition(".")
        with torch.no_grad():
            parameter.data.copy_(getattr(owners[prefix], attribute))
        setattr(owners[prefix], attribute, parameter)
    return fresh.train(current.training)


class WeightQuantProxyFromInjectorBase(ParameterQuantProxyFromInjector):
    """A quantized weight of any numeric type.

    Attributes:
        cache_inference_quant_weight: keep the quantized weight between evaluations.
        cache_inference_quant_weight_metadata_only: keep its scale but not its values.
    """

    cache_class: type[_CachedIO] = _CachedIO
    quant_tensor_class: type[QuantTensor] | None = None

    def __init__(self, quant_layer: nn.Module, quant_injector: InjectorMeta) -> None:
        super().__init__(quant_layer, quant_injector)
        self._cached_weight: _CachedIO | None = None
        self._cache_inference_quant_weight = False
        self.cache_inference_quant_weight_metadata_only = False

    @property
    def input_view_impl(self) -> nn.Module:
        """View in which the weight is quantized."""
        tensor_quant: Any = self.tensor_quant
        return tensor_quant.int_quant.input_view_impl

    @property
    def requires_quant_input(self) -> bool:
        """True where the quantized weight depends on the quantized input."""
        return False

    @property
    def cache_inference_quant_weight(self) -> bool:
        """True where evaluation keeps the quantized weight; assigning clears what was kept."""
        return self._cache_inference_quant_weight

    @cache_inference_quant_weight.setter
    def cache_inference_quant_weight(self, enabled: bool) -> None:
        self._cache_inference_quant_weight = enabled
        self._cached_weight = None

    def train(self, mode: bool = True) -> WeightQuantProxyFromInjectorBase:
        """Switch between training and evaluation; training drops a kept weight."""
        if mode:
            self._cached_weight = None
        return super().train(mode)

    def retrieve_attribute(self, attribute: str) -> Any:
        """Read a field of the quantized weight; None where nothing is quantized."""
        if not self.is_quant_enabled:
            return None
        if self._cached_weight is not None:
            return getattr(self._cached_weight, attribute)
        return getattr(self(self.tracked_parameter_list[0]), attribute)

    def compile_quant(self, compile_export: bool = False) -> None:
        """Kept for compatibility: whole-model ``torch.compile`` needs no preparation."""

    def create_quant_tensor(self, qt_args: tuple[Any, ...]) -> Any:
        """Return the quant tensor of what the tensor quantizer returned."""
        raise NotImplementedError(f"{type(self).__name__} does not create quant tensors.")

    def forward(self, x: Tensor, quant_input: Any = None) -> Tensor | QuantTensor:
        """Quantize the weight ``x``; returned as it is where quantization is disabled."""
        if not self.is_quant_enabled:
            return x
        cached = self._cached_weight
        if cached is not None and not cached.metadata_only:
            return cached.quant_tensor
        quantize: Any = self.export_handler if self._export_mode else self.tensor_quant
        out = quantize(x)
        if self.skip_create_quant_tensor:
            return out[0]
        quant_weight = self.create_quant_tensor(out)
        if self._cache_inference_quant_weight and not self.training and cached is None:
            metadata_only = self.cache_inference_quant_weight_metadata_only
            self._cached_weight = self.cache_class(quant_weight, metadata_only)
        return quant_weight


class WeightQuantProxyFromInjector(WeightQuantProxyFromInjectorBase):
    """A weight quantized to integers: ``proxy(weight) -> IntQuantTensor``.

    Example:
        >>> from brevitas.nn import QuantLinear
        >>> layer = QuantLinear(2, 4)
        >>> layer.weight_quant(layer.weight).bit_width, layer.weight_quant.is_signed
        (tensor(8.), True)
    """

    def scale(self) -> Tensor | None:
        """Real value of one integer step."""
        return self.retrieve_attribute("scale")

    def zero_point(self) -> Tensor | None:
        """Integer that stands for zero."""
        return self.retrieve_attribute("zero_point")

    def bit_width(self) -> Tensor | None:
        """Bits of the integers."""
        return self.retrieve_attribute("bit_width")

    def create_quant_tensor(self, qt_args: tuple[Any, ...]) -> IntQuantTensor:
        """Return the quant tensor of ``(value, scale, zero_point, bit_width)``."""
        return self.int_quant_tensor(qt_args)


class BiasQuantProxyFromInjectorBase(ParameterQuantProxyFromInjector):
    """A quantized bias of any numeric type.

    Attributes:
        cache_inference_quant_bias: keep the quantized bias between evaluations.
        cache_inference_quant_bias_metadata_only: keep its scale but not its values.
    """

    parameter_name = "bias"

    def __init__(self, quant_layer: nn.Module, quant_injector: InjectorMeta) -> None:
        super().__init__(quant_layer, quant_injector)
        self._cached_bias: _CachedIO | None = None
        self.cache_inference_quant_bias = False
        self.cache_inference_quant_bias_metadata_only = False

    def init_tensor_quant(self, preserve_state_dict: bool = False) -> None:
        """Build the tensor quantizer anew, or reset it where it exists already."""
        self._declares_input_scale = bool(self.bound_injector().requires_input_scale)
        super().init_tensor_quant(preserve_state_dict)

    @property
    def requires_input_scale(self) -> bool:
        """True where the bias takes the scale of the accumulator."""
        return self._declares_input_scale and self.is_quant_enabled

    def train(self, mode: bool = True) -> BiasQuantProxyFromInjectorBase:
        """Switch between training and evaluation; training drops a kept bias."""
        if mode:
            self._cached_bias = None
        return super().train(mode)

    def get_cached(self, attr: str) -> Any:
        """Read a field of the bias kept from the last evaluation; None where nothing is kept."""
        return None if self._cached_bias is None else getattr(self._cached_bias, attr)


class BiasQuantProxyFromInjector(BiasQuantProxyFromInjectorBase):
    """A bias quantized to integers: ``proxy(bias, input, weight) -> IntQuantTensor``."""

    def scale(self) -> Tensor | None:
        """Real value of one integer step; None for a bias at the accumulator's unknown scale."""
        return self._retrieve("scale", unknown=None)

    def zero_point(self) -> Tensor | None:
        """Integer that stands for zero."""
        return self._retrieve("zero_point")

    def bit_width(self) -> Tensor | None:
        """Bits of the integers."""
        return self._retrieve("bit_width")

    def _retrieve(self, attribute: str, **default: Any) -> Any:
        if not self.is_quant_enabled:
            return None
        if self._cached_bias is not None:
            return self.get_cached(attribute)
        if self.requires_input_scale and default:
            return default["unknown"]
        return getattr(self(self.tracked_parameter_list[0]), attribute)

    def quant_output_scale_impl(
        self, input: IntQuantTensor, weight: IntQuantTensor, module: Any
    ) -> Tensor:
        """Scale of the accumulator of ``module``, broadcastable to its output."""
        return module.quant_output_scale_impl(input, input.scale, weight.scale)

    def compute_bias_scale(self, input: Any, weight: Any) -> Tensor | None:
        """Scale of the accumulator, ``input scale * weight scale``, one per bias or one for all."""
        if not isinstance(input, IntQuantTensor) or not isinstance(weight, IntQuantTensor):
            return None
        scale = self.quant_output_scale_impl(input, weight, self.tracked_module_list[0])
        return scale.reshape(-1)

    def forward(
        self, x: Tensor, input: Any = None, weight: Any = None
    ) -> Tensor | IntQuantTensor:
        """Quantize the bias ``x``, at the accumulator's scale where it has none of its own.

        Raises:
            QuantLayerConfigurationError: where that scale is needed and unknown.
        """
        if not self.is_quant_enabled:
            return x
        cached = self._cached_bias
        if cached is not None and not cached.metadata_only:
            return cached.quant_tensor
        quantize: Any = self.export_handler if self._export_mode else self.tensor_quant
        if not self.requires_input_scale:
            out = quantize(x)
        else:
            scale = self.compute_bias_scale(input, weight)
            scale = cached.scale if scale is None and cached is not None else scale
            if scale is None:
                layer = self.tracked_module_list[0]
                summary = f"{type(layer).__name__}({layer.extra_repr()})"
                raise QuantLayerConfigurationError(f"{INPUT_SCALE_REQUIRED} Layer: {summary}")
            out = quantize(x, scale)
        quant_bias = self.int_quant_tensor(out)
        if self.cache_inference_quant_bias and not self.training and cached is None:
            metadata_only = self.cache_inference_quant_bias_metadata_only
            self._cached_bias = _CachedIO(quant_bias, metadata_only)
        return quant_bias
