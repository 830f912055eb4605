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
from brevitas.proxy._float_fields import FloatQuantProxyMixin
from brevitas.proxy._kept import KeptParameters
from brevitas.proxy._tracked import TrackedParameters
from brevitas.proxy.quant_proxy import QuantProxyFromInjector, QuantProxyProtocol
from brevitas.quant_tensor import IntQuantTensor, QuantTensor
from brevitas.utils.quant_utils import _CachedIO

__all__ = [
    "BiasQuantProxyFromInjector",
    "BiasQuantProxyFromInjectorBase",
    "BiasQuantProxyProtocol",
    "DecoupledWeightQuantProxyFromInjector",
    "DecoupledWeightQuantWithInputProxyFromInjector",
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

INPUT_REQUIRED = (
    "QuantLayer is not correctly configured, check if warnings were raised. "
    "Quantized input required: the weight is quantized for integers of a known number of bits, "
    "received {}. Pass a QuantTensor, or set `input_quant` (e.g. Int8ActPerTensorFloat). Layer: {}"
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
        current = self.tensor_quant if preserve_state_dict else None
        parts = () if current is None else current.named_modules()
        self._init_tensor_quant({key for name, part in parts for key in _saved(name, part)})

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

    def _is_tracked(self, x: Tensor) -> bool:
        """True for a parameter that a layer holds, by identity; a parametrized one is anew."""
        return any(x is parameter for parameter in self.tracked_parameter_list)

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


def _saved(name: str, part: nn.Module) -> dict[str, Tensor]:
    """The tensors of a part itself that a checkpoint holds, by their keys."""
    transient = part._non_persistent_buffers_set
    buffers = ((key, b) for key, b in part.named_buffers(recurse=False) if key not in transient)
    own = (*part.named_parameters(recurse=False), *buffers)
    return {f"{name}.{key}".lstrip("."): tensor for key, tensor in own}


@torch.no_grad()
def _reset_in_place(current: nn.Module, fresh: nn.Module, kept: set[str]) -> None:
    """Give ``current`` the values of ``fresh``, but for replaced parts and tensors ``kept``."""
    parts = dict(fresh.named_modules())
    for name, part in current.named_modules():
        source = parts.get(name)
        if source is None or type(source) is not type(part):
            continue
        own, new = _saved(name, part), _saved(name, source)
        for key, tensor in own.items():
            if key not in kept:
                tensor.data.copy_(new[key])
        if isinstance(part, LearnedValueModule) and not kept.intersection(own):
            part.forget_learned_value()
        if isinstance(part, StatelessBuffer) and isinstance(source, StatelessBuffer):
            part.replace(source)


class WeightQuantProxyFromInjectorBase(ParameterQuantProxyFromInjector):
    """A quantized weight of any numeric type.

    Attributes:
        cache_inference_quant_weight: keep the quantized weight between evaluations, that of each
            layer; a parametrized weight, which is another tensor at each call, is not kept.
        cache_inference_quant_weight_metadata_only: keep its scale but not its values.
    """

    cache_class: type[_CachedIO] = _CachedIO
    quant_tensor_class: type[QuantTensor] | None = None

    def __init__(self, quant_layer: nn.Module, quant_injector: InjectorMeta) -> None:
        super().__init__(quant_layer, quant_injector)
        self._cached_weight: KeptParameters | None = None
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
        weight, kept = self.tracked_parameter_list[0], self._cached_weight
        cached = None if kept is None else kept.find(weight)
        return getattr(self(weight) if cached is None else cached, attribute)

    def compile_quant(self, compile_export: bool = False) -> None:
        """Kept for compatibility: whole-model ``torch.compile`` needs no preparation."""

    def create_quant_tensor(self, qt_args: tuple[Any, ...]) -> Any:
        """Return the quant tensor of what the tensor quantizer returned."""
        raise NotImplementedError(f"{type(self).__name__} does not create quant tensors.")

    def _input_format(self, quant_input: Any) -> tuple[Any, ...]:
        """What the tensor quantizer needs to know of the layer's input, as further arguments."""
        return ()

    def _keeps(self, input_format: tuple[Any, ...]) -> bool:
        """True where this call may use or leave a kept weight."""
        if not self._cache_inference_quant_weight or self.training:
            return False
        # A compiled graph cannot look at the bits of an input.
        return not (input_format and torch.compiler.is_compiling())

    def forward(self, x: Tensor, quant_input: Any = None) -> Tensor | QuantTensor:
        """Quantize the weight ``x``; returned as it is where quantization is disabled."""
        if not self.is_quant_enabled:
            return x
        input_format = self._input_format(quant_input)
        keeps, kept = self._keeps(input_format), self._cached_weight
        key = tuple(map(float, input_format)) if keeps else ()
        cached = kept.find(x, key) if keeps and kept is not None else None
        if cached is not None and not cached.metadata_only:
            return cached.quant_tensor
        quantize: Any = self.export_handler if self._export_mode else self.tensor_quant
        out = quantize(x, *input_format)
        if self.skip_create_quant_tensor:
            return self.quantized_value(out[0], x)
        quant_weight = self.create_quant_tensor(out)
        if keeps and cached is None and self._is_tracked(x):
            new = self.cache_class(quant_weight, self.cache_inference_quant_weight_metadata_only)
            self._cached_weight = (kept or KeptParameters()).keeping(x, new, key)
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


class DecoupledWeightQuantProxyFromInjector(WeightQuantProxyFromInjector):
    """A weight whose integers are found on one grid and placed on another.

    Example:
        >>> from brevitas.nn import QuantLinear
        >>> from brevitas.quant import Int8WeightPerChannelFloatDecoupled
        >>> layer = QuantLinear(2, 4, weight_quant=Int8WeightPerChannelFloatDecoupled)
        >>> layer.weight_quant.pre_scale().shape, layer.weight_quant.pre_zero_point()
        (torch.Size([4, 1]), tensor(0.))
    """

    def _retrieve_grid(self, index: int) -> Tensor | None:
        """An output of the tensor quantizer that a quant tensor does not hold."""
        if not self.is_quant_enabled:
            return None
        quantize: Any = self.tensor_quant
        return quantize(self.tracked_parameter_list[0], *self._input_format(None))[index]

    def pre_scale(self) -> Tensor | None:
        """Step of the grid on which the integers are found."""
        return self._retrieve_grid(4)

    def pre_zero_point(self) -> Tensor | None:
        """Zero point of the grid on which the integers are found, a real number."""
        return self._retrieve_grid(5)

    def create_quant_tensor(self, qt_args: tuple[Any, ...]) -> IntQuantTensor:
        """Return the quant tensor of the output's grid."""
        return self.int_quant_tensor(qt_args[:4])


class DecoupledWeightQuantWithInputProxyFromInjector(DecoupledWeightQuantProxyFromInjector):
    """A weight that is quantized for inputs of a known width: ``proxy(weight, quant_input)``.

    Bits and sign are those of the quantized input. Without one they are those of the last input
    that was kept, see below, or else those to which the layer quantizes its input.

    Attributes:
        cache_inference_quant_act: keep bits and sign of the input of the last evaluation.
        cache_quant_io_metadata_only: kept for compatibility; the values are not needed.

    Example:
        >>> from brevitas.nn import QuantLinear
        >>> from brevitas.quant import Int8AccumulatorAwareWeightQuant, Uint8ActPerTensorFloat
        >>> layer = QuantLinear(
        ...     2, 4, weight_quant=Int8AccumulatorAwareWeightQuant, weight_accumulator_bit_width=16,
        ...     input_quant=Uint8ActPerTensorFloat)
        >>> layer.quant_weight().bit_width
        tensor(8.)
    """

    def __init__(self, quant_layer: nn.Module, quant_injector: InjectorMeta) -> None:
        super().__init__(quant_layer, quant_injector)
        self._cached_act: _CachedIO | None = None
        self.cache_inference_quant_act = False
        self.cache_quant_io_metadata_only = True

    @property
    def requires_quant_input(self) -> bool:
        """True: the sum of the integers is bounded for inputs of a known width."""
        return True

    def drop_cache(self) -> None:
        """Forget the weight and the input kept from an earlier evaluation."""
        super().drop_cache()
        self._cached_act = None

    def _input_format(self, quant_input: Any) -> tuple[Tensor, bool]:
        """Bits and sign of the layer's input."""
        known: Any = quant_input if isinstance(quant_input, IntQuantTensor) else self._cached_act
        if known is not None:
            return known.bit_width, bool(known.signed)
        layer = self.tracked_module_list[0]
        input_quant: Any = getattr(layer, "input_quant", None)
        # Numbers of a minifloat are larger than integers of as many bits.
        is_minifloat = isinstance(input_quant, FloatQuantProxyMixin)
        bit_width = None if is_minifloat else getattr(input_quant, "bit_width", None)
        if bit_width is not None and input_quant.is_quant_enabled:
            return bit_width(), bool(input_quant.is_signed)
        summary = f"{type(layer).__name__}({layer.extra_repr()})"
        raise QuantLayerConfigurationError(INPUT_REQUIRED.format(type(quant_input), summary))

    def forward(self, x: Tensor, quant_input: Any = None) -> Tensor | QuantTensor:
        """Quantize the weight ``x`` for the format of ``quant_input``.

        Raises:
            QuantLayerConfigurationError: where no quantized input is given or known.
        """
        keeps = self.cache_inference_quant_act and not self.training
        if keeps and isinstance(quant_input, IntQuantTensor):
            self._cached_act = self.cache_class(quant_input, self.cache_quant_io_metadata_only)
        return super().forward(x, quant_input)


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
        self._cached_bias: KeptParameters | None = None
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

    def _kept_bias(self, x: Tensor) -> _CachedIO | None:
        """What was kept of the bias ``x``, unless keeping was switched off meanwhile."""
        if not self.cache_inference_quant_bias:
            self.drop_cache()
        kept = self._cached_bias
        return None if kept is None else kept.find(x)

    def get_cached(self, attr: str) -> Any:
        """Read a field of the bias kept from the last evaluation; None where nothing is kept."""
        kept = self._kept_bias(self.tracked_parameter_list[0])
        return None if kept is None else getattr(kept, attr)

    def _retrieve(self, attribute: str, **default: Any) -> Any:
        if not self.is_quant_enabled:
            return None
        bias = self.tracked_parameter_list[0]
        kept = self._kept_bias(bias)
        if kept is None and self.requires_input_scale and default:
            return default["unknown"]
        return getattr(self(bias) if kept is None else kept, attribute)

    def create_quant_tensor(self, qt_args: tuple[Any, ...]) -> Any:
        """Return the quant tensor of what the tensor quantizer returned."""
        raise NotImplementedError(f"{type(self).__name__} does not create quant tensors.")

    def _given_scale(self, kept: _CachedIO | None, input: Any, weight: Any) -> tuple[Tensor, ...]:
        """What the tensor quantizer takes besides the bias: nothing where it finds its scale."""
        return ()

    def forward(self, x: Tensor, input: Any = None, weight: Any = None) -> Tensor | QuantTensor:
        """Quantize the bias ``x``; returned as it is where quantization is disabled.

        Args:
            x: the bias.
            input: quantized input of the layer, read where the scale is the accumulator's.
            weight: quantized weight of the layer, as the input.

        Raises:
            QuantLayerConfigurationError: where the accumulator's scale is needed and unknown.
        """
        if not self.is_quant_enabled:
            return x
        cached = self._kept_bias(x)
        if cached is not None and not cached.metadata_only:
            return cached.quant_tensor
        quantize: Any = self.export_handler if self._export_mode else self.tensor_quant
        out = quantize(x, *self._given_scale(cached, input, weight))
        quant_bias = self.create_quant_tensor(out)
        keeps = self.cache_inference_quant_bias and not self.training
        if keeps and self._is_tracked(x) and self._kept_bias(x) is None:
            new = self.cache_class(quant_bias, self.cache_inference_quant_bias_metadata_only)
            self._cached_bias = (self._cached_bias or KeptParameters()).keeping(x, new)
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

    def _given_scale(self, kept: _CachedIO | None, input: Any, weight: Any) -> tuple[Tensor, ...]:
        """The scale of the accumulator, or else the one that was kept; nothing for an own one."""
        if not self.requires_input_scale:
            return ()
        scale = self.compute_bias_scale(input, weight)
        scale = kept.scale if scale is None and kept is not None else scale
        if scale is None:
            layer = self.tracked_module_list[0]
            summary = f"{type(layer).__name__}({layer.extra_repr()})"
            raise QuantLayerConfigurationError(f"{INPUT_SCALE_REQUIRED} Layer: {summary}")
        return (scale,)
