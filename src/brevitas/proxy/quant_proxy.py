"""What all proxies share: one module per quantized tensor of a layer. Layer: proxy (L4).

A proxy holds a declaration (the injector), builds the tensor quantizer from it, and turns what
that returns into a quant tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from brevitas import config
from brevitas.common import ExportMixin
from brevitas.core.quant._plan import rounding_mode_of
from brevitas.core.quant.int import RescalingIntQuant
from brevitas.core.utils import StatelessBuffer
from brevitas.core.zero_point import ZeroZeroPoint
from brevitas.inject import InjectorMeta
from brevitas.ops.region import compiler_works
from brevitas.quant_tensor.int_torch_handler import create_int_quant_tensor

__all__ = ["QuantProxyFromInjector", "QuantProxyProtocol"]


@runtime_checkable
class QuantProxyProtocol(Protocol):
    """What a layer needs of a quantizer that is given as an object."""

    is_quant_enabled: bool

    def add_tracked_module(self, module: nn.Module) -> None:
        """Attach one more layer to the quantizer."""


class QuantProxyFromInjector(ExportMixin, nn.Module):
    """A quantized tensor of a layer, or of several layers that share the quantizer.

    Args:
        quant_layer: layer that the tensor belongs to.
        quant_injector: declaration of the quantizer.

    Attributes:
        disable_quant: assign True to pass values through unquantized, False to resume.
        tracked_module_list: the layers; not child modules of the proxy.
        tensor_quant: the built quantizer, None where nothing is quantized.
        is_groupwise: True where each group of elements has a scale of its own.
    """

    is_groupwise = False

    def __init__(self, quant_layer: nn.Module, quant_injector: InjectorMeta) -> None:
        nn.Module.__init__(self)
        ExportMixin.__init__(self)
        self.update_state_dict_impl: Any = None
        self._declaration = quant_injector
        self.tracked_module_list: list[nn.Module] = []
        self.disable_quant = False
        self.skip_create_quant_tensor = False
        self.tensor_quant: nn.Module | None = None
        self.add_tracked_module(quant_layer)

    @property
    def quant_injector(self) -> InjectorMeta:
        """The declaration, with the layer's keywords, bound to the layers; assignable."""
        return self.bound_injector()

    @quant_injector.setter
    def quant_injector(self, declaration: InjectorMeta) -> None:
        self._declaration = declaration

    @property
    def requires_export_handler(self) -> bool:
        """True where the proxy quantizes, so that an exporter has to represent it."""
        return self.is_quant_enabled

    @property
    def is_quant_enabled(self) -> bool:
        """True where calling the proxy quantizes."""
        return not self.disable_quant and self._tensor_quant_impl() is not None

    @property
    def is_proxy_compiled(self) -> bool:
        """True where the quantizer's parts, and the machine, allow it to run compiled."""
        # A quantizer of a user's own does not say how it runs.
        is_fused = getattr(self._tensor_quant_impl(), "is_fused", False)
        return config.JIT_ENABLED and compiler_works() and is_fused

    @property
    def is_signed(self) -> bool | None:
        """True for signed integers; None where nothing is quantized."""
        return self._declared("signed")

    @property
    def is_narrow_range(self) -> bool | None:
        """True where one integer is left out for symmetry; None where nothing is quantized."""
        return self._declared("narrow_range")

    @property
    def rounding_mode(self) -> str | None:
        """Name of the rounding, as in the QONNX specification; None where nothing is quantized."""
        stated = self._integer_format()
        rounding = getattr(stated, "float_to_int_impl", None)
        if rounding is not None:
            return rounding_mode_of(rounding)
        return getattr(stated, "rounding_mode", None)

    @property
    def input_view_impl(self) -> nn.Module:
        """View in which the tensor is quantized."""
        return self._integer_format().input_view_impl

    @property
    def has_zero_point(self) -> bool | None:
        """False where the zero point is zero by construction; None where its value decides."""
        impl = getattr(self._tensor_quant_impl(), "zero_point_impl", None)
        return False if impl is None or type(impl) is ZeroZeroPoint else None

    def int_quant_tensor(self, qt_args: tuple[Any, ...]) -> Any:
        """Return the quant tensor of ``(value, scale, zero_point, bit_width)``."""
        value, scale, zero_point, bit_width = qt_args
        signed, has_zero_point = self._integer_flags()
        training = self.training
        return create_int_quant_tensor(
            value, scale, bit_width, zero_point, signed, training, has_zero_point
        )

    def _integer_flags(self) -> tuple[bool, bool | None]:
        """Whether integers are signed, and whether a zero point may differ from zero."""
        tensor_quant = self._tensor_quant_impl()
        if type(tensor_quant) is not RescalingIntQuant:
            return bool(self.is_signed), self.has_zero_point
        # The same, with a tenth of the look-ups: asked at every call.
        parts: dict[str, Any] = tensor_quant._modules
        signed = parts["int_quant"].__dict__.get("signed")
        signed = self.is_signed if signed is None else signed
        return bool(signed), False if type(parts["zero_point_impl"]) is ZeroZeroPoint else None

    def _declared(self, name: str) -> Any:
        stated = self._integer_format()
        if stated is None:
            return None
        value = getattr(stated, name, None)
        if value is None and name in self._declaration:
            return getattr(self._declaration, name)
        return value

    def _integer_format(self) -> Any:
        """What states sign, range and rounding: a quantizer's integer part, or else itself."""
        tensor_quant = self._tensor_quant_impl()
        int_quant = getattr(tensor_quant, "int_quant", None)
        if int_quant is not None:
            return int_quant
        return getattr(tensor_quant, "decoupled_int_quant", tensor_quant)

    def _tensor_quant_impl(self) -> nn.Module | None:
        # At every call: a module's own look-up takes ten times as long.
        return self._modules.get("tensor_quant")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.drop_cache()
        return super()._apply(fn, recurse)

    def add_tracked_module(self, module: nn.Module) -> None:
        """Attach one more layer and build the quantizer anew over all of them.

        Args:
            module: layer that holds the quantized tensor.

        Raises:
            TypeError: for anything but a module.
        """
        if not isinstance(module, nn.Module):
            raise TypeError(f"add_tracked_module({module!r}): expected a torch.nn.Module.")
        self.tracked_module_list.append(module)
        self.update_tracked_modules()
        try:
            self.init_tensor_quant()
        except Exception:
            self.tracked_module_list.pop()
            raise

    def update_tracked_modules(self) -> None:
        """Called after a layer was attached; the tracked layers are read when they are needed."""

    def bound_injector(self) -> InjectorMeta:
        """Return the declaration with the layers that it is built for.

        The binding is not kept, so that a copied proxy builds for the copied layers.
        """
        modules = self.tracked_module_list
        module = modules[0] if len(modules) == 1 else tuple(modules)
        return self._declaration.let(module=module, proxy_module=self)

    def init_tensor_quant(self) -> None:
        """Build the tensor quantizer from the declaration."""
        raise NotImplementedError(f"{type(self).__name__} does not build a tensor quantizer.")

    def try_quantize(self, x: Tensor) -> tuple[Any, ...]:
        """Return what the quantizer makes of ``x``, without activation function and cache.

        A statistic of the quantizer calls it to see what its candidates do.
        """
        tensor_quant: Any = self._tensor_quant_impl()
        return tensor_quant(x)

    def apply_input_view(self, x: Tensor) -> Tensor:
        """Return ``x`` with as many elements as are quantized, where groups are filled up."""
        return x

    def as_quantized(self, x: Tensor) -> Tensor:
        """Return ``x`` in the shape in which the quantizer returns it: in groups, or as it is."""
        return x

    def quantized_value(self, value: Tensor, x: Tensor) -> Tensor:
        """Return what the quantizer made of ``x``, in the shape of ``x``."""
        return value

    def drop_cache(self) -> None:
        """Forget what was kept of earlier evaluations; where nothing is kept, do nothing."""

    def train(self, mode: bool = True) -> QuantProxyFromInjector:
        """Switch between training and evaluation; training drops what was kept."""
        if mode:
            self.drop_cache()
        return super().train(mode)

    def _restore_constants(self, state_dict: dict[str, Any]) -> None:
        """Bring constants back from the meta device, beside the values that are assigned."""
        devices = (tensor.device for tensor in state_dict.values() if isinstance(tensor, Tensor))
        device = next(devices, torch.get_default_device())
        for part in self.modules():
            if isinstance(part, StatelessBuffer) and part.value.is_meta:
                part.to_empty(device=device)  # the constant remembers its value

    def _sentinel(self) -> Tensor:
        """A zero on the device of the quantizer, to evaluate scales that depend on no input."""
        for tensor in (*self.parameters(), *self.buffers()):
            return torch.zeros((), device=tensor.device)
        return torch.zeros(())

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        self.drop_cache()
        if self.update_state_dict_impl is not None:
            self.update_state_dict_impl(prefix, state_dict)
        if local_metadata.get("assign_to_params_buffers"):
            self._restore_constants(state_dict)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)
