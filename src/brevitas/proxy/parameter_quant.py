"""Proxies of weights and biases. Layer: proxy (L4)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from brevitas import config
from brevitas.common import QuantLayerConfigurationError
from brevitas.core._state import LearnedValueModule
from brevitas.core.utils import StatelessBuffer
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
    "quantized input and a quantized weight, with one input scale for all products that an output "
    "sums. Pass a QuantTensor, set `input_quant` (e.g. "
    "Int8ActPerTensorFloat), or use a bias quantizer with a scale of its own (e.g. "
    "Int8BiasPerTensorFloatInternalScaling)."
)


class ParameterQuantProxyFromInjector(QuantProxyFromInjector):
    """A quantized parameter; its statistics follow the parameter wherever it is replaced."""

    parameter_name = "weight"
    _built_from: tuple[InjectorMeta, int] | None = None

    @property
    def tracked_parameter_list(self) -> list[Tensor]:
        """The parameters that share the quantizer, as their layers hold them now."""
        return list(TrackedParameters(self.tracked_module_list, self.parameter_name))

    def bound_injector(self) -> InjectorMeta:
        """Return the declaration with the layers and parameters that it is built for."""
        tracked = TrackedParameters(self.tracked_module_list, self.parameter_name)
        return super().bound_injector().let(tracked_parameter_list=tracked)

    def init_tensor_quant(self, preserve_state_dict: bool = False) -> None:
        """Build the tensor quantizer, or reset its values where it exists already.

        An existing quantizer is reset in place: an optimizer that holds its parameters keeps
        training them, and parts that were replaced or hooked stay.

        Args:
            preserve_state_dict: keep the learned values instead of resetting them.
        """
        current = self.tensor_quant
        kept = {name for name, _ in current.named_parameters()} if current is not None else set()
        self._init_tensor_quant(kept if preserve_state_dict else set())

    def _init_tensor_quant(self, kept: set[str]) -> None:
        self.drop_cache()
        tracked = self.tracked_parameter_list
        fresh = self.bound_injector().tensor_quant if tracked else None
        if fresh is not None:
            fresh.to(device=tracked[0].device, dtype=tracked[0].dtype).train(self.training)
        current = self.tensor_quant
        # Another declaration, or number of layers, may change parts that have no tensors.
        recipe = (self._declaration, len(self.tracked_module_list))
        same_recipe = self._built_from == recipe
        if current is None or fresh is None or not (same_recipe and _is_resettable(current, fresh)):
            self.tensor_quant = fresh
        else:
            _reset_in_place(current, fresh, kept)
        self._built_from = recipe

    def max_uint_value(self, bit_width: Tensor) -> Tensor:
        """Largest magnitude as an unsigned integer, ``2**b - 1`` or less in narrow range."""
        return max_int(False, bool(self.is_narrow_range), bit_width)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        if config.REINIT_ON_STATE_DICT_LOAD:
            start = prefix + "tensor_quant."
            # What the checkpoint brings is not reset first: it may be this very memory.
            loaded = {key[len(start) :] for key in state_dict if key.startswith(start)}
            self._init_tensor_quant(loaded)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _is_resettable(current: nn.Module, fresh: nn.Module) -> bool:
    """True where every part not replaced has the fresh one's shapes, and tensors of its devices."""
    if type(current) is not type(fresh):
        return False
    parts = dict(current.named_modules())
    return all(
        _layout(part) == _layout(parts[name])
        for name, part in fresh.named_modules()
        if type(parts.get(name)) is type(part)
    )


def _layout(part: nn.Module) -> dict[str, Any]:
    """Shapes and devices of a part's tensors, and the shapes that it keeps besides."""
    own = (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False))
    shapes = {name: kept for name, kept in part.__dict__.items() if _is_shape(kept)}
    return {**shapes, **{name: (tensor.shape, tensor.device) for name, tensor in own}}


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(size, int) for size in value)


@torch.no_grad()
def _reset_in_place(current: nn.Module, fresh: nn.Module, kept: set[str]) -> None:
    """Give ``current`` the values of ``fresh``, but for replaced parts and parameters ``kept``."""
    parts = dict(fresh.named_modules())
    for name, part in current.named_modules():
        source = parts.get(name)
        if source is None or type(source) is not type(part):
            continue
        own = {f"{name}.{key}".lstrip("."): p for key, p in part.named_parameters(recurse=False)}
        new = {f"{name}.{key}".lstrip("."): p for key, p in source.named_parameters(recurse=False)}
        for key, parameter in own.items():
            if key not in kept:
                parameter.data.copy_(new[key])
        if isinstance(part, LearnedValueModule) and not kept.intersection(own):
            part.forget_learned_value()
        if isinstance(part, StatelessBuffer) and isinstance(source, StatelessBuffer):
            part.replace(source)


def _is_unusable(cached: _CachedIO) -> bool:
    """True for what was kept inside of inference mode and is wanted outside of it."""
    value = cached.scale if cached.metadata_only else cached.quant_tensor.value
    return value.is_inference() and not torch.is_inference_mode_enabled()


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
        self.drop_cache()

    def drop_cache(self) -> None:
        """Forget the weight kept from an earlier evaluation."""
        self._cached_weight = None

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
        if cached is not None and _is_unusable(cached):
            cached = self._cached_weight = None
        if cached is not None and not cached.metadata_only:
            return cached.quant_tensor
        quantize: Any = self.export_handler if self._export_mode else self.tensor_quant
        out = quantize(x)
        if self.skip_create_quant_tensor:
            return self.quantized_value(out[0], x)
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
    cache_class: type[_CachedIO] = _CachedIO

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

    def drop_cache(self) -> None:
        """Forget the bias kept from an earlier evaluation."""
        self._cached_bias = None

    def _kept_bias(self) -> _CachedIO | None:
        """What was kept, unless keeping was switched off meanwhile."""
        kept = self._cached_bias
        if kept is not None and (not self.cache_inference_quant_bias or _is_unusable(kept)):
            self.drop_cache()
        return self._cached_bias

    def get_cached(self, attr: str) -> Any:
        """Read a field of the bias kept from the last evaluation; None where nothing is kept."""
        kept = self._kept_bias()
        return None if kept is None else getattr(kept, attr)

    def _retrieve(self, attribute: str, **default: Any) -> Any:
        if not self.is_quant_enabled:
            return None
        if self._kept_bias() is not None:
            return self.get_cached(attribute)
        if self.requires_input_scale and default:
            return default["unknown"]
        return getattr(self(self.tracked_parameter_list[0]), attribute)

    def create_quant_tensor(self, qt_args: tuple[Any, ...]) -> Any:
        """Return the quant tensor of what the tensor quantizer returned."""
        raise NotImplementedError(f"{type(self).__name__} does not create quant tensors.")

    def _quant_bias(self, out: tuple[Any, ...]) -> Any:
        """Make a quant tensor, and keep it for later where that is asked for."""
        quant_bias = self.create_quant_tensor(out)
        if self.cache_inference_quant_bias and not self.training and self._cached_bias is None:
            metadata_only = self.cache_inference_quant_bias_metadata_only
            self._cached_bias = self.cache_class(quant_bias, metadata_only)
        return quant_bias


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

    def create_quant_tensor(self, qt_args: tuple[Any, ...]) -> IntQuantTensor:
        """Return the quant tensor of ``(value, scale, zero_point, bit_width)``."""
        return self.int_quant_tensor(qt_args)

    def quant_output_scale_impl(
        self, input: IntQuantTensor, weight: IntQuantTensor, module: Any
    ) -> Tensor:
        """Scale of the accumulator of ``module``, broadcastable to its output."""
        return module.quant_output_scale_impl(input, input.scale, weight.scale)

    def compute_bias_scale(self, input: Any, weight: Any) -> Tensor | None:
        """Scale of the accumulator, ``input scale * weight scale``, one per bias or one for all."""
        if not isinstance(input, IntQuantTensor) or not isinstance(weight, IntQuantTensor):
            return None
        layer: Any = self.tracked_module_list[0]
        if not layer.has_accumulator_scale(input):
            return None
        scale = self.quant_output_scale_impl(input, weight, layer)
        return scale.reshape(-1)

    def forward(self, x: Tensor, input: Any = None, weight: Any = None) -> Tensor | IntQuantTensor:
        """Quantize the bias ``x``, at the accumulator's scale where it has none of its own.

        Raises:
            QuantLayerConfigurationError: where that scale is needed and unknown.
        """
        if not self.is_quant_enabled:
            return x
        cached = self._kept_bias()
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
        return self._quant_bias(out)
