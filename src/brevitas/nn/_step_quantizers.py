"""The quantizers of a recurrent step, prepared once for a whole sequence. Layer: nn (L6).

A quantizer whose grid is fixed is evaluated once and then applied as one operation. Any other one
(while statistics are collected, with a hook, of a user's own) is called at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from brevitas.core.quant._fixed import FixedGrid, fixed_grids, joint_grid
from brevitas.core.quant._plan import is_plain
from brevitas.ops.linearized import GridGradients, linearized_fake_quant
from brevitas.proxy.runtime_quant import (
    ActQuantProxyFromInjector,
    DynamicActQuantProxyFromInjector,
    FusedActivationQuantProxy,
)
from brevitas.quant_tensor import IntQuantTensor, QuantTensor, plain
from brevitas.quant_tensor.int_torch_handler import create_int_quant_tensor

__all__ = [
    "Apart",
    "BareQuantizer",
    "FixedOperation",
    "Linearized",
    "SideBySide",
    "StepQuantizer",
    "prepared",
]

Function = Callable[[Tensor], Tensor]

_OPERANDS = ("scale", "shift", "lower", "upper")
_FUNCTIONS: dict[type[nn.Module], Function | None] = {
    nn.Identity: None,
    nn.Sigmoid: torch.sigmoid,
    nn.Tanh: torch.tanh,
}


class FixedOperation(NamedTuple):
    """An activation function and a fixed grid: a function of a tensor and of the grid's tensors."""

    function: Function | None
    grid: FixedGrid | None
    is_fixed = True

    def __call__(self, x: Tensor) -> Tensor:
        """Return the quantized activation."""
        x = x if self.function is None else self.function(x)
        return x if self.grid is None else self.grid.quantize(x)

    def tensors(self) -> list[Tensor]:
        """The tensors of the grid that the operation computes with."""
        fields = [] if self.grid is None else [getattr(self.grid, name) for name in _OPERANDS]
        return [field for field in fields if isinstance(field, Tensor)]

    def with_tensors(self, tensors: Iterator[Tensor]) -> FixedOperation:
        """The same operation on other tensors, which are taken from an iterator."""
        grid = self.grid
        if grid is None:
            return self
        names = [name for name in _OPERANDS if isinstance(getattr(grid, name), Tensor)]
        return self._replace(grid=grid._replace(**{name: next(tensors) for name in names}))

    def kind(self) -> Hashable:
        """Everything but the tensors."""
        if self.grid is None:
            return self.function, None
        fields = tuple(getattr(self.grid, name) for name in _OPERANDS)
        numbers = tuple(None if isinstance(f, Tensor) else (f,) for f in fields)
        return self.function, self.grid.plan, numbers


class Linearized(NamedTuple):
    """An operation whose derivative is found in the forward pass, see ``ops.linearized``."""

    operation: FixedOperation
    asked: GridGradients
    is_fixed = True

    def __call__(self, x: Tensor) -> Tensor:
        """Return the quantized activation."""
        function, grid = self.operation
        if grid is None:
            return self.operation(x)
        operands = (grid.scale, grid.shift, grid.lower, grid.upper)
        return linearized_fake_quant(x, *operands, function, grid.plan, self.asked)

    def with_tensors(self, tensors: Iterator[Tensor]) -> Linearized:
        """The same operation on other tensors, which are taken from an iterator."""
        return self._replace(operation=self.operation.with_tensors(tensors))


class Apart(NamedTuple):
    """An operation on several tensors, of which each is quantized by itself."""

    operation: FixedOperation

    def __call__(self, x: Any) -> tuple[Tensor, ...]:
        """Return the quantized tensors.

        Args:
            x: tensors, or one of them side by side, ``[..., n, size]``.
        """
        parts = x.unbind(-2) if isinstance(x, Tensor) else x
        return tuple(self._of(place)(part) for place, part in enumerate(parts))

    def _of(self, place: int) -> FixedOperation:
        grid = self.operation.grid
        if grid is None:
            return self.operation
        fields = {name: getattr(grid, name) for name in _OPERANDS}
        own = {
            name: field[place]
            for name, field in fields.items()
            if isinstance(field, Tensor) and field.dim() == 2 and field.shape[0] > 1
        }
        return self.operation._replace(grid=grid._replace(**own))

    def with_tensors(self, tensors: Iterator[Tensor]) -> Apart:
        """The same operation on other tensors, which are taken from an iterator."""
        return Apart(self.operation.with_tensors(tensors))


class StepQuantizer:
    """Applies one proxy to a tensor at every step: activation function, then quantizer.

    Args:
        proxy: the proxy, as it is when a sequence starts.
        operation: what it does as one operation; None where the proxy has to be called.
    """

    def __init__(self, proxy: Any, operation: FixedOperation | None) -> None:
        self.proxy = proxy
        self.operation = operation

    @property
    def is_fixed(self) -> bool:
        """Whether the proxy need not be called: nothing about it depends on the input."""
        return self.operation is not None

    def __call__(self, x: Tensor) -> Tensor:
        """Return the quantized activation as a plain tensor."""
        if self.operation is not None:
            return self.operation(x)
        return plain(self.proxy(x))

    def quant_tensor(self, x: Tensor) -> Tensor | QuantTensor:
        """Return the quantized activation with its scale."""
        return self.describe(self(x)) if self.is_fixed else self.proxy(x)

    def describe(self, value: Tensor) -> Tensor | IntQuantTensor:
        """Return a value on the fixed grid with its scale; plain where nothing is quantized."""
        proxy, grid = self.proxy, None if self.operation is None else self.operation.grid
        if grid is None or proxy.skip_create_quant_tensor:
            return value
        fields = (grid.scale, grid.bit_width, grid.zero_point)
        signed = bool(proxy.is_signed)
        return create_int_quant_tensor(value, *fields, signed, proxy.training, proxy.has_zero_point)

    def describe_state(self, state: Any) -> Any:
        """Return what a step returned with its scale."""
        return self.describe(state) if self.is_fixed else state

    @property
    def is_dynamic(self) -> bool:
        """Whether each call has a scale of its own, in evaluation as well."""
        return isinstance(self.proxy, DynamicActQuantProxyFromInjector)


class BareQuantizer:
    """Applies the quantizer of a proxy without its activation function.

    Args:
        prepared: the proxy, prepared for the sequence.

    Attributes:
        operation: what it does as one operation; None where the quantizer has to be called.
    """

    def __init__(self, prepared: StepQuantizer) -> None:
        self.proxy = prepared.proxy
        fixed = prepared.operation
        self.operation = None if fixed is None else fixed._replace(function=None)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the quantized tensor, ``x`` itself where nothing is quantized."""
        if self.operation is not None:
            return self.operation(x)
        proxy = self.proxy
        if not proxy.is_quant_enabled:
            return x
        quantizer: Any = proxy.fused_activation_quant_proxy.tensor_quant
        return (proxy.export_handler if proxy.export_mode else quantizer)(x)[0]


def prepared(proxies: Mapping[str, Any]) -> dict[str, StepQuantizer]:
    """Prepare the proxies of a step for a sequence, by name.

    Their grids are evaluated together: a computation for each kind of quantizer.

    Args:
        proxies: the proxies, as they are when a sequence starts.
    """
    plans = [_fixed_plan(proxy) for proxy in proxies.values()]
    grids = iter(fixed_grids([plan.tensor_quant for plan in plans if plan is not None]))
    found = {}
    for (name, proxy), plan in zip(proxies.items(), plans, strict=True):
        operation = None if plan is None else plan.operation(next(grids))
        found[name] = StepQuantizer(proxy, operation)
    return found


class _FixedPlan(NamedTuple):
    """An activation function and the quantizer after it; None where nothing is quantized."""

    function: Function | None
    tensor_quant: Any

    def operation(self, grid: FixedGrid | None) -> FixedOperation | None:
        """The operation on a grid; None where the quantizer has none and has to be called."""
        if grid is None and self.tensor_quant is not None:
            return None
        return FixedOperation(self.function, grid)


def _fixed_plan(proxy: Any) -> _FixedPlan | None:
    """What a proxy stands for, as it is now; None where it has to be called."""
    if type(proxy) is not ActQuantProxyFromInjector or not is_plain(proxy):
        return None
    fused = proxy.fused_activation_quant_proxy
    if fused is None:
        return _FixedPlan(None, None)
    caches = proxy.cache_inference_quant_act and not proxy.training
    if proxy.export_mode or caches or type(fused) is not FusedActivationQuantProxy:
        return None
    activation = fused.activation_impl
    if not (is_plain(fused) and is_plain(activation) and type(activation) in _FUNCTIONS):
        return None
    function = _FUNCTIONS[type(activation)]
    return _FixedPlan(function, fused.tensor_quant if proxy.is_quant_enabled else None)


class SideBySide:
    """Applies a quantizer to each of several tensors, in one operation where they allow it.

    Args:
        quantizers: one for each tensor.
        calls: places of the quantizers in the order in which they are called, which tells when
            one that several tensors share collects statistics.

    Attributes:
        operation: what they do as one operation; None where they are called one by one.
    """

    def __init__(
        self, quantizers: Sequence[StepQuantizer], calls: Sequence[int] | None = None
    ) -> None:
        self.quantizers = quantizers
        self.calls = range(len(quantizers)) if calls is None else calls
        self.operation = _joint_operation(quantizers)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the quantized tensors ``[..., n, size]``, of which each has its quantizer."""
        if self.operation is not None:
            return self.operation(x)
        parts = list(x.unbind(-2))
        for place in self.calls:
            parts[place] = self.quantizers[place](parts[place])
        return torch.stack(parts, dim=-2)


def _joint_operation(quantizers: Sequence[StepQuantizer]) -> FixedOperation | None:
    operations = [q.operation for q in quantizers if q.operation is not None]
    if len(operations) < len(quantizers) or len({o.function for o in operations}) > 1:
        return None
    grids = [operation.grid for operation in operations if operation.grid is not None]
    if not grids:
        return operations[0]
    grid = joint_grid(grids) if len(grids) == len(operations) else None
    return None if grid is None else operations[0]._replace(grid=grid)
