"""Proxies of what is computed at run time: activations and accumulators. Layer: proxy (L4)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from brevitas.core.quant._plan import are_plain
from brevitas.core.quant.int import RescalingIntQuant
from brevitas.inject import InjectorMeta
from brevitas.proxy._accumulator import (
    AccQuantProxyFromInjectorBase,
    AccQuantProxyProtocol,
    ClampQuantProxyFromInjector,
    TruncQuantProxyFromInjector,
)
from brevitas.proxy.quant_proxy import QuantProxyFromInjector, QuantProxyProtocol
from brevitas.quant_tensor import IntQuantTensor, QuantTensor, plain
from brevitas.utils.quant_utils import _CachedIO

__all__ = [
    "AccQuantProxyFromInjectorBase",
    "AccQuantProxyProtocol",
    "ActQuantProxyFromInjector",
    "ActQuantProxyFromInjectorBase",
    "ActQuantProxyProtocol",
    "ClampQuantProxyFromInjector",
    "DynamicActQuantProxyFromInjector",
    "DynamicGridMixin",
    "FusedActivationQuantProxy",
    "TruncQuantProxyFromInjector",
    "depends_on_input",
]

ActQuantProxyProtocol = QuantProxyProtocol


def depends_on_input(name: str) -> RuntimeError:
    """The error for reading what a quantizer finds anew for each input.

    Args:
        name: a field of a quant tensor.

    Example:
        >>> depends_on_input("scale")
        RuntimeError('scale(): the scale of a dynamic quantizer depends on its input; quantize the
        input and read `.scale` of the result.')
    """
    return RuntimeError(
        f"{name}(): the {name.replace('_', ' ')} of a dynamic quantizer depends on its input; "
        f"quantize the input and read `.{name}` of the result."
    )


class _TensorQuantDisabledIdentity(nn.Module):
    """Stands where an activation function is not followed by a quantizer."""

    def forward(self, x: Tensor) -> tuple[Tensor, None, None, None]:
        return x, None, None, None


class FusedActivationQuantProxy(nn.Module):
    """An activation function followed by its quantizer: ``tensor_quant(activation_impl(x))``.

    Args:
        activation_impl: the activation function.
        tensor_quant: the quantizer of its output.
    """

    def __init__(self, activation_impl: nn.Module, tensor_quant: nn.Module) -> None:
        super().__init__()
        self.activation_impl = activation_impl
        self.tensor_quant = tensor_quant

    def forward(self, x: Tensor) -> tuple[Any, ...]:
        """Return ``(value, scale, zero_point, bit_width)`` of the activated ``x``."""
        activation, tensor_quant = self.activation_impl, self.tensor_quant
        if type(activation) is nn.ReLU and type(tensor_quant) is RescalingIntQuant:
            if not activation.inplace and are_plain(activation, tensor_quant):
                outputs = tensor_quant.quantize_rectified(x)
                if outputs is not None:
                    return outputs
        return tensor_quant(activation(x))


class ActQuantProxyFromInjectorBase(QuantProxyFromInjector):
    """A quantized activation of any numeric type.

    Attributes:
        fused_activation_quant_proxy: activation function and quantizer; None for neither.
        is_passthrough_act: True where the function keeps quantized values on their grid (ReLU).
        cache_inference_quant_act: keep the quantized activation of the last evaluation.
        cache_quant_io_metadata_only: keep its scale but not its values.
    """

    cache_class: type[_CachedIO] = _CachedIO

    def __init__(self, quant_layer: nn.Module, quant_injector: InjectorMeta) -> None:
        super().__init__(quant_layer, quant_injector)
        self._cached_act: _CachedIO | None = None
        self.cache_inference_quant_act = False
        self.cache_quant_io_metadata_only = True

    def drop_cache(self) -> None:
        """Forget the activation kept from an earlier evaluation."""
        self._cached_act = None

    @property
    def is_quant_enabled(self) -> bool:
        """True where calling the proxy quantizes; assignable."""
        return not self.disable_quant and self._tensor_quant_impl() is not None

    @is_quant_enabled.setter
    def is_quant_enabled(self, enabled: bool) -> None:
        self.disable_quant = not enabled

    def _tensor_quant_impl(self) -> nn.Module | None:
        fused = self.fused_activation_quant_proxy
        if fused is None or isinstance(fused.tensor_quant, _TensorQuantDisabledIdentity):
            return None
        return fused.tensor_quant

    def init_tensor_quant(self) -> None:
        """Build activation function and quantizer from the declaration."""
        self.drop_cache()
        injector = self.bound_injector()
        self.is_passthrough_act = "passthrough_act" not in injector or injector.passthrough_act
        tensor_quant = injector.tensor_quant
        act_impl = injector.act_impl if "act_impl" in injector else None
        if tensor_quant is None and act_impl is None:
            self.fused_activation_quant_proxy = None
            return
        self.fused_activation_quant_proxy = FusedActivationQuantProxy(
            act_impl or nn.Identity(), tensor_quant or _TensorQuantDisabledIdentity()
        ).train(self.training)
        if "update_state_dict_impl" in injector and tensor_quant is not None:
            self.update_state_dict_impl = injector.update_state_dict_impl

    def internal_forward(self, force_eval: bool = True) -> Any:
        """Quantize a zero, to read the scale of a quantizer that does not depend on its input.

        Args:
            force_eval: kept for compatibility. The reading is as in evaluation in any case: a
                zero seen in training would enter the statistics.
        """
        was_training, kept = self.training, self._cached_act
        self.eval()
        try:
            return self(self._sentinel())
        finally:
            self.train(was_training)
            self._cached_act = kept

    def retrieve_attribute(self, attribute: str, force_eval: bool) -> Any:
        """Read a field of the quantized activation; None where nothing is quantized."""
        if not self.is_quant_enabled:
            return None
        if self._cached_act is not None and self.cache_inference_quant_act:
            return getattr(self._cached_act, attribute)
        return getattr(self.internal_forward(force_eval), attribute)

    def compile_quant(self, compile_export: bool = False) -> None:
        """Kept for compatibility: whole-model ``torch.compile`` needs no preparation."""

    def create_quant_tensor(self, qt_args: tuple[Any, ...], x: Any = None) -> Any:
        """Return the quant tensor of what the tensor quantizer returned."""
        raise NotImplementedError(f"{type(self).__name__} does not create quant tensors.")

    def forward(self, x: Tensor | QuantTensor) -> Tensor | QuantTensor:
        """Apply the activation function and quantize; a quant tensor is quantized anew."""
        fused = self.fused_activation_quant_proxy
        if fused is None:
            return x
        value = plain(x)
        if not self.is_quant_enabled:
            y = fused.activation_impl(value)
            keeps_grid = isinstance(x, QuantTensor) and self.is_passthrough_act
            return x._around(y) if keeps_grid else y
        if self._export_mode:
            handler: Any = self.export_handler
            out = handler(fused.activation_impl(value))
        else:
            out = fused(value)
        if self.skip_create_quant_tensor:
            return self.quantized_value(out[0], value)
        quant_act = self.create_quant_tensor(out, x)
        if self.cache_inference_quant_act and not self.training:
            self._cached_act = self.cache_class(quant_act, self.cache_quant_io_metadata_only)
        return quant_act


class ActQuantProxyFromInjector(ActQuantProxyFromInjectorBase):
    """An activation quantized to integers: ``proxy(x) -> IntQuantTensor``.

    Example:
        >>> from brevitas.nn import QuantIdentity
        >>> proxy = QuantIdentity(bit_width=4).act_quant
        >>> proxy.bit_width(), proxy.is_signed
        (tensor(4.), True)
    """

    def scale(self, force_eval: bool = True) -> Tensor | None:
        """Real value of one integer step, as in evaluation."""
        return self.retrieve_attribute("scale", force_eval)

    def zero_point(self, force_eval: bool = True) -> Tensor | None:
        """Integer that stands for zero, as in evaluation."""
        return self.retrieve_attribute("zero_point", force_eval)

    def bit_width(self, force_eval: bool = True) -> Tensor | None:
        """Bits of the integers, as in evaluation."""
        return self.retrieve_attribute("bit_width", force_eval)

    def create_quant_tensor(self, qt_args: tuple[Any, ...], x: Any = None) -> IntQuantTensor:
        """Return the quant tensor of ``(value, scale, zero_point, bit_width)``."""
        return self.int_quant_tensor(qt_args)


class DynamicGridMixin:
    """A proxy whose scale is found anew for each input, so that it has none to read."""

    def scale(self, force_eval: bool = True) -> Tensor | None:
        """Raise: the scale depends on the input."""
        raise depends_on_input("scale")

    def zero_point(self, force_eval: bool = True) -> Tensor | None:
        """Raise: the zero point depends on the input."""
        raise depends_on_input("zero_point")


class DynamicActQuantProxyFromInjector(DynamicGridMixin, ActQuantProxyFromInjector):
    """An activation whose scale is found anew for each input, so that it has none to read."""
