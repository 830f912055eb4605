"""Proxies of accumulators: sums that are truncated or clamped. Layer: proxy (L4)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from brevitas.core.quant._plan import rounding_mode_of
from brevitas.inject import InjectorMeta
from brevitas.proxy.quant_proxy import QuantProxyFromInjector, QuantProxyProtocol
from brevitas.quant_tensor import IntQuantTensor
from brevitas.quant_tensor.int_torch_handler import create_int_quant_tensor
from brevitas.utils.quant_utils import _CachedIO

__all__ = [
    "AccQuantProxyFromInjectorBase",
    "AccQuantProxyProtocol",
    "ClampQuantProxyFromInjector",
    "TruncQuantProxyFromInjector",
]

AccQuantProxyProtocol = QuantProxyProtocol


class AccQuantProxyFromInjectorBase(QuantProxyFromInjector):
    """A quantized accumulator: takes an integer quant tensor, whose grid the result depends on.

    Anything else passes as it is, as through a model in floating point.
    """

    def __init__(self, quant_layer: nn.Module, quant_injector: InjectorMeta) -> None:
        super().__init__(quant_layer, quant_injector)
        self._last_evaluated: _CachedIO | None = None

    def init_tensor_quant(self) -> None:
        """Build the quantizer from the declaration, on its device and in its dtype."""
        self.drop_cache()
        injector = self.bound_injector()
        self.tensor_quant = injector.tensor_quant
        if self.tensor_quant is not None:
            declared = (name for name in ("device", "dtype") if name in injector)
            self.tensor_quant.to(**{name: getattr(injector, name) for name in declared})
            self.tensor_quant.train(self.training)

    def drop_cache(self) -> None:
        """Forget the grid of the last evaluation."""
        self._last_evaluated = None

    def retrieve_attribute(self, attribute: str) -> Any:
        """Read a field of the last evaluation in eager mode; None where there was none."""
        return None if self._last_evaluated is None else getattr(self._last_evaluated, attribute)

    def scale(self) -> Tensor | None:
        """Real value of one integer step in the last evaluation: it depends on the input's."""
        return self.retrieve_attribute("scale")

    def zero_point(self) -> Tensor | None:
        """Integer that stood for zero in the last evaluation."""
        return self.retrieve_attribute("zero_point")

    def bit_width(self) -> Tensor | None:
        """Bits of the integers in the last evaluation."""
        return self.retrieve_attribute("bit_width")

    def grid_arguments(self, x: IntQuantTensor) -> tuple[Any, ...]:
        """Return what the quantizer takes of a quant tensor besides its value."""
        raise NotImplementedError(f"{type(self).__name__} does not quantize accumulators.")

    def create_quant_tensor(self, qt_args: tuple[Any, ...], x: IntQuantTensor) -> IntQuantTensor:
        """Return the quant tensor of what the tensor quantizer returned for ``x``."""
        raise NotImplementedError(f"{type(self).__name__} does not create quant tensors.")

    def forward(self, x: Tensor | IntQuantTensor) -> Tensor | IntQuantTensor:
        """Quantize an accumulator; returned as it is where that is disabled, or ``x`` plain."""
        if not self.is_quant_enabled or not isinstance(x, IntQuantTensor):
            return x
        quantize: Any = self.export_handler if self._export_mode else self.tensor_quant
        out = quantize(x.value, *self.grid_arguments(x))
        if self.skip_create_quant_tensor:
            return out[0]
        result = self.create_quant_tensor(out, x)
        if not self.training and not self._export_mode and not torch.compiler.is_compiling():
            self._last_evaluated = _CachedIO(result, metadata_only=True)
        return result


class TruncQuantProxyFromInjector(AccQuantProxyFromInjectorBase):
    """An accumulator that loses its low bits: ``proxy(x) -> IntQuantTensor`` of fewer bits.

    Example:
        >>> from brevitas.nn import TruncQuantAccumulator
        >>> from brevitas.quant import TruncTo8bit
        >>> proxy = TruncQuantAccumulator(trunc_quant=TruncTo8bit).trunc_quant
        >>> x = IntQuantTensor(torch.tensor([7.0, -7.0]), 1.0, 0.0, 10, True, False)
        >>> proxy(x).value, proxy(x).bit_width, proxy.rounding_mode
        (tensor([ 4., -8.]), tensor(8.), 'FLOOR')
    """

    @property
    def is_signed(self) -> bool | None:
        """None: the result has a sign where the accumulator has one."""
        return None

    @property
    def is_narrow_range(self) -> bool | None:
        """True where one integer is left out for symmetry; None where nothing is quantized."""
        return self._own("narrow_range")

    @property
    def keeps_scale(self) -> bool:
        """True where the result keeps the accumulator's scale, the older meaning of truncation."""
        return bool(self._own("keeps_scale"))

    @property
    def rounding_mode(self) -> str | None:
        """Name of the rounding, as in the QONNX specification; None where nothing is quantized."""
        rounding = self._own("float_to_int_impl")
        return None if rounding is None else rounding_mode_of(rounding)

    def _own(self, name: str) -> Any:
        return None if self.tensor_quant is None else getattr(self.tensor_quant, name)

    def grid_arguments(self, x: IntQuantTensor) -> tuple[Any, ...]:
        """Return scale, zero point, bit width and sign."""
        return x.scale, x.zero_point, x.bit_width, x.signed

    def create_quant_tensor(self, qt_args: tuple[Any, ...], x: IntQuantTensor) -> IntQuantTensor:
        """Return the quant tensor of ``(value, scale, zero_point, bit_width)``, signed as ``x``."""
        value, scale, zero_point, bit_width = qt_args
        has_zero_point = False if x._has_zero_point is False else None
        return create_int_quant_tensor(
            value, scale, bit_width, zero_point, x.signed, self.training, has_zero_point
        )


class ClampQuantProxyFromInjector(AccQuantProxyFromInjectorBase):
    """An accumulator that loses its high bits: integers beyond the range saturate.

    The result is on the grid of ``x``, without its zero point.

    Example:
        >>> from brevitas.nn import ClampQuantAccumulator
        >>> from brevitas.quant.base import IntQuant
        >>> from brevitas.quant.solver import ClampQuantSolver
        >>> class ClampTo8bit(IntQuant, ClampQuantSolver):
        ...     bit_width = 8
        >>> proxy = ClampQuantAccumulator(clamp_quant=ClampTo8bit).clamp_quant
        >>> x = IntQuantTensor(torch.tensor([500.0, -7.0]), 1.0, 0.0, 10, True, False)
        >>> proxy(x).value, proxy(x).bit_width
        (tensor([127.,  -7.]), tensor(8.))
    """

    def grid_arguments(self, x: IntQuantTensor) -> tuple[Any, ...]:
        """Return scale and bit width."""
        return x.scale, x.bit_width

    def create_quant_tensor(self, qt_args: tuple[Any, ...], x: IntQuantTensor) -> IntQuantTensor:
        """Return the quant tensor of ``(value, scale, zero_point, bit_width)``."""
        return self.int_quant_tensor(qt_args)
