"""The quantizers of a recurrent step, prepared once for a whole sequence. Layer: nn (L6).

A quantizer whose grid is fixed is evaluated once and then applied as one operation. Any other one
(while statistics are collected, with a hook, of a user's own) is called at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from brevitas.core.quant._fixed import FixedGrid, fixed_grid, stacked_grid
from brevitas.core.quant._plan import is_plain
from brevitas.proxy.runtime_quant import (
    ActQuantProxyFromInjector,
    DynamicActQuantProxyFromInjector,
    FusedActivationQuantProxy,
)
from brevitas.quant_tensor import IntQuantTensor, QuantTensor
from brevitas.quant_tensor.int_torch_handler import create_int_quant_tensor

__all__ = ["StepQuantizer", "SideBySide", "on_one_grid"]

Function = Callable[[Tensor], Tensor]

_FUNCTIONS: dict[type[nn.Module], Function | None] = {
    nn.Identity: None,
    nn.Sigmoid: torch.sigmoid,
    nn.Tanh: torch.tanh,
}


class StepQuantizer:
    """Applies one proxy to a tensor at every step: activation function, then quantizer.

    Args:
        proxy: the proxy, as it is when a sequence starts.

    Attributes:
        is_fixed: whether the proxy need not be called: nothing about it depends on the input.
        function: its activation function; None for the identity, or where it is not fixed.
        grid: the grid, None where nothing is quantized or the proxy is not fixed.
    """

    def __init__(self, proxy: Any) -> None:
        self.proxy = proxy
        self.function: Function | None = None
        self.grid: FixedGrid | None = None
        self.is_fixed = self._fix()

    def _fix(self) -> bool:
        proxy = self.proxy
        if type(proxy) is not ActQuantProxyFromInjector or not is_plain(proxy):
            return False
        fused = proxy.fused_activation_quant_proxy
        if fused is None:
            return True
        caches = proxy.cache_inference_quant_act and not proxy.training
        if proxy.export_mode or caches or type(fused) is not FusedActivationQuantProxy:
            return False
        activation = fused.activation_impl
        if not (is_plain(fused) and is_plain(activation) and type(activation) in _FUNCTIONS):
            return False
        self.function = _FUNCTIONS[type(activation)]
        if not proxy.is_quant_enabled:
            return True
        self.grid = fixed_grid(fused.tensor_quant)
        return self.grid is not None

    def __call__(self, x: Tensor) -> Tensor:
        """Return the quantized activation as a plain tensor."""
        if not self.is_fixed:
            quantized = self.proxy(x)
            return quantized.value if isinstance(quantized, QuantTensor) else quantized
        x = x if self.function is None else self.function(x)
        return x if self.grid is None else self.grid.quantize(x)

    def quant_tensor(self, x: Tensor) -> Tensor | QuantTensor:
        """Return the quantized activation with its scale."""
        return self.describe(self(x)) if self.is_fixed else self.proxy(x)

    def describe(self, value: Tensor) -> Tensor | IntQuantTensor:
        """Return a value on the fixed grid with its scale; plain where nothing is quantized."""
        grid, proxy = self.grid, self.proxy
        if grid is None or proxy.skip_create_quant_tensor:
            return value
        fields = (grid.scale, grid.bit_width, grid.zero_point)
        signed = bool(proxy.is_signed)
        return create_int_quant_tensor(
            value, *fields, signed, proxy.training, proxy.has_zero_point
        )


    def describe_state(self, state: Any) -> Any:
        """Return what a step returned with its scale."""
        return self.describe(state) if self.is_fixed else state

    @property
    def is_dynamic(self) -> bool:
        """Whether each call has a scale of its own, in evaluation as well."""
        return isinstance(self.proxy, DynamicActQuantProxyFromInjector)


class SideBySide:
    """Applies a quantizer to each of several tensors, in one operation where they allow it.

    Args:
        quantizers: one for each tensor.
        calls: places of the quantizers in the order in which they are called, which tells when
            one that several tensors share collects statistics.
    """

    def __init__(
        self, quantizers: Sequence[StepQuantizer], calls: Sequence[int] | None = None
    ) -> None:
        self.quantizers = quantizers
        self.calls = range(len(quantizers)) if calls is None else calls
        self.grid = on_one_grid(quantizers)
        self.is_joint = self.grid is not None or _all_identities(quantizers)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the quantized tensors ``[..., n, size]``, of which each has its quantizer."""
        if self.grid is not None:
            return self.grid.quantize(_activated(x, self.quantizers))
        if self.is_joint:
            return _activated(x, self.quantizers)
        parts = list(x.unbind(-2))
        for place in self.calls:
            parts[place] = self.quantizers[place](parts[place])
        return torch.stack(parts, dim=-2)


def on_one_grid(quantizers: Sequence[StepQuantizer]) -> FixedGrid | None:
    """The grid on which one operation quantizes all; None where they run one by one.

    Args:
        quantizers: quantizers of tensors side by side.
    """
    grids = [quantizer.grid for quantizer in quantizers if quantizer.grid is not None]
    if len(grids) < len(quantizers) or len({q.function for q in quantizers}) > 1:
        return None
    return stacked_grid(grids)


def _all_identities(quantizers: Sequence[StepQuantizer]) -> bool:
    fixed = all(q.is_fixed and q.grid is None for q in quantizers)
    return fixed and len({q.function for q in quantizers}) == 1


def _activated(x: Tensor, quantizers: Sequence[StepQuantizer]) -> Tensor:
    function = quantizers[0].function
    return x if function is None else function(x)
