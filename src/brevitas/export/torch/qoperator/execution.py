"""Run a traced model on quantized tensors, so that TorchScript records their operators.

Layer: export (L8).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from brevitas.export.common.integers import (
    Integers,
    accumulator_bias,
    needs_input,
)
from brevitas.export.common.session import ExportSession
from brevitas.export.common.spec import ExportError
from brevitas.export.torch.qoperator.layers import Geometry, may_overflow, quantized_layer
from brevitas.export.torch.qoperator.operators import (
    CLAMPS,
    CONVOLUTIONS,
    JOINING,
    LAYERS,
    SPLITTING,
    TRANSPOSED,
    is_padding_with_zeros,
    moving,
)
from brevitas.export.torch.qoperator.values import Quantized, Waiting
from brevitas.export.torch.recording import RECORDING, SIZES, Recording

__all__ = ["Execution"]

aten = torch.ops.aten

# What torch.onnx.ops.symbolic becomes in a trace; it exists once that was called.
_SYMBOLIC = "onnx_symbolic._symbolic.default"

_STACKING: dict[Any, Callable[..., Tensor]] = {
    aten.cat.default: torch.cat,
    aten.stack.default: torch.stack,
}


class Execution(Recording):
    """Runs a model of QuantizeLinear and DequantizeLinear nodes on quantized tensors.

    Args:
        module: what ``torch.export`` made of the model.
        session: the export under way, which names the quantizer behind each node.
        layers: packed layers by name; filled by the first run, read by later ones.
        root: name of the whole model, for messages.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        session: ExportSession,
        layers: nn.ModuleDict,
        root: str,
    ) -> None:
        super().__init__(module)
        self.session = session
        self.layers = layers
        self.root = root
        self.overflowing: list[str] = []
        self._key = ""
        self._names: dict[tuple[str, str], str] = {}
        # Of constants, by identity: the layer whose quantized weight they were made from.
        self._weights: dict[int, str] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Remember which node runs: its name is the key of the layer that it becomes."""
        self._key = n.name
        return super().run_node(n)

    def output(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return real values."""
        return super().output(target, self._real(args, ""), kwargs)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Run an operator on quantized tensors where it is one of those that can."""
        if str(target) == _SYMBOLIC:
            return self._symbolic(args, kwargs)
        if target is operator.getitem:
            return args[0][args[1]]
        if target in SIZES:
            return self._size(target, self._real(args, "size"))
        if target not in RECORDING:
            args, kwargs = self._fixed(args), self._fixed(kwargs)
        first = args[0] if args else None
        if isinstance(first, (Quantized, Waiting)):
            value = self._on_quantized(target, first, args[1:], kwargs)
            if value is not None:
                return value
        if target in _STACKING:
            value = self._stacked(target, args)
            if value is not None:
                return value
        self._expect_no_weight(target, args)
        name = _name_of(target)
        real = self._record(target, self._real(args, name), self._real(kwargs, name))
        self._follow_constants(args, real)
        return real

    def _on_quantized(self, target: Any, first: Any, rest: Any, kwargs: Any) -> Any:
        """Run an operator on a quantized first argument, or return None."""
        if target in CLAMPS:
            return _clamped(first, *CLAMPS[target](*rest))
        if target in SPLITTING:
            return _split(first, SPLITTING[target], rest)
        moves = moving(target, rest, kwargs)
        if moves is not None:
            return _moved(first, moves, is_padding_with_zeros(target, rest))
        if isinstance(first, Waiting) or first.tensor is None:
            return None
        if target in JOINING and not kwargs:
            return self._joined(target, first, rest[0])
        if target is aten.linear.default or target in CONVOLUTIONS:
            return self._weighted(target, first, rest)
        return None

    def _expect_no_weight(self, target: Any, args: Any) -> None:
        """Raise where a layer is about to compute with a quantized weight in real values."""
        if target not in LAYERS:
            return
        for leaf in tree_leaves([args[index] for index in LAYERS[target]], is_leaf=_is_value):
            layer = self._weight_behind(leaf)
            if layer is None:
                continue
            is_layer = target is aten.linear.default or target in CONVOLUTIONS
            if is_layer and isinstance(leaf, Quantized) and not isinstance(args[0], Quantized):
                raise needs_input(layer)
            what = "transposed convolution" if target in TRANSPOSED else _name_of(target)
            raise ExportError(
                f"{what}: its weight is quantized, and no operator on integers is written for it; "
                f"use export_torch_qcdq. Layer: {layer}"
            )

    def _weight_behind(self, value: Any) -> str | None:
        """Name the layer of a quantized weight, also where it was changed in real values."""
        if isinstance(value, Quantized):
            return None if value.tensor is not None else value.grid.layer(self.root)
        return self._weights.get(id(value))

    def _is_constant(self, value: Any) -> bool:
        """Whether a value is no tensor, or one that depends on no input."""
        if isinstance(value, (Tensor, Waiting)):
            return id(value) in self._constants
        return not isinstance(value, Quantized) or value.tensor is None

    def _follow_constants(self, args: Any, real: Any) -> None:
        """Remember a value that was made from constants alone, and the weight among them."""
        leaves = tree_leaves(args, is_leaf=_is_value)
        if isinstance(real, Tensor) and all(map(self._is_constant, leaves)):
            layers = (self._weight_behind(leaf) for leaf in leaves)
            layer = next((layer for layer in layers if layer is not None), None)
            self._constants[id(real)] = real
            if layer is not None:
                self._weights[id(real)] = layer

    def _symbolic(self, args: Any, kwargs: Any) -> Any:
        """Run a node that a handler wrote."""
        (x, *parameters), kind = args[0], args[1]
        attributes = dict(zip(kwargs["attr_keys"], kwargs["attr_ints"], strict=True))
        if kind == "Clip":
            low, high = (int(limit) + x.grid.shift for limit in parameters)
            return x.limited(low, high)
        if kind == "DequantizeLinear" and isinstance(x, Quantized):
            return x
        scale, zero_point = parameters
        proxy = self.session.sites[attributes["site"]].proxy
        data = None if kind == "QuantizeLinear" else x
        axis = attributes.get("axis")
        grid = Integers.full_range("", scale, zero_point, axis, proxy, data)
        return Quantized(grid) if data is not None else self._quantized(x, grid)

    def _quantized(self, x: Any, grid: Integers) -> Quantized:
        grid = grid.moved_to(torch.uint8)
        if isinstance(x, Waiting):
            return x.quantized(grid)
        if isinstance(x, Quantized) and x.tensor is not None and x.grid.has_grid_of(grid):
            return replace(x, grid=replace(x.grid, shift=grid.shift))
        real = self._real(x, "QuantizeLinear")
        scale, zero_point = float(grid.scale), int(grid.zero_point)
        return Quantized(grid, torch.quantize_per_tensor(real, scale, zero_point, torch.quint8))

    def _weighted(self, target: Any, x: Quantized, rest: Sequence[Any]) -> Waiting | None:
        """Let a layer wait for its quantizer; None where it has no integer parameters."""
        weight = rest[0]
        bias = rest[1] if len(rest) > 1 else None
        if not isinstance(weight, Quantized) or weight.grid.data is None:
            return None
        if not self._is_constant(bias):
            return None
        layer = weight.grid.layer(self.root)
        bias = bias.grid if isinstance(bias, Quantized) else bias
        geometry, before = None, None
        if target in CONVOLUTIONS:
            geometry, before = _geometry(weight.grid, rest[2:], CONVOLUTIONS[target])
        node = self._key

        def compute(grid: Integers) -> Tensor:
            key = self._name((node, self._key), layer)
            if key not in self.layers:
                if may_overflow(x.grid, weight.grid):
                    self.overflowing.append(layer)
                real = _rounded_bias(bias, x.grid, weight.grid, grid, layer)
                self.layers[key] = quantized_layer(weight.grid, real, geometry, grid)
            assert x.tensor is not None
            if x.tensor.dim() == 1:
                return self.layers[key](x.tensor[None])[0]
            return self.layers[key](x.tensor if before is None else F.pad(x.tensor, before))

        return Waiting(layer, compute)

    def _name(self, nodes: tuple[str, str], layer: str) -> str:
        """Name the module of a layer and the quantizer behind it, the same in every run."""
        if nodes not in self._names:
            name = f"quantized_{layer.replace('.', '_')}"
            taken = set(self._names.values())
            suffixes = (f"_{index}" if index else "" for index in range(len(taken) + 1))
            self._names[nodes] = next(name + end for end in suffixes if name + end not in taken)
        return self._names[nodes]

    def _joined(self, target: Any, x: Quantized, other: Any) -> Waiting | None:
        """Let a sum or product of two quantized tensors wait; None where one is not."""
        if not isinstance(other, Quantized) or other.tensor is None:
            return None
        first, second, join = x.tensor, other.tensor, JOINING[target]
        return Waiting(
            "",
            lambda grid: join(first, second, float(grid.scale), int(grid.zero_point)),
            lambda: target(x.dequantized(), other.dequantized()),
        )

    def _stacked(self, target: Any, args: Any) -> Quantized | None:
        """Join quantized tensors on one grid; None where they are not."""
        parts = args[0]
        if not all(isinstance(part, Quantized) and part.tensor is not None for part in parts):
            return None
        first = parts[0].grid
        if not all(part.grid.has_grid_of(first) for part in parts):
            return None
        low, high = min(p.grid.low for p in parts), max(p.grid.high for p in parts)
        tensor = _STACKING[target]([part.tensor for part in parts], *args[1:])
        return Quantized(replace(first, low=low, high=high), tensor)

    def _real(self, tree: Any, reader: str) -> Any:
        """Replace what is quantized by its real values."""
        if isinstance(tree, Quantized):
            return tree.dequantized()
        if isinstance(tree, Waiting):
            return tree.real(reader)
        if isinstance(tree, (tuple, list)):
            return type(tree)(self._real(item, reader) for item in tree)
        if isinstance(tree, dict):
            return {name: self._real(item, reader) for name, item in tree.items()}
        return tree


def _rounded_bias(
    bias: Integers | Tensor | None, x: Integers, weight: Integers, output: Integers, layer: str
) -> Tensor | None:
    """Real values of a bias that the operator adds as an integer."""
    if bias is None:
        return None
    scale = x.scale * weight.scale
    return accumulator_bias(bias, scale, output.scale, layer).to(torch.float32) * scale


def _name_of(target: Any) -> str:
    """Name an operator without its overload, as users write it."""
    return getattr(target, "__name__", str(target)).partition(".")[0]


def _is_value(item: Any) -> bool:
    return isinstance(item, (Quantized, Waiting))


def _moved(x: Quantized | Waiting, function: Callable[[Tensor], Tensor], pads: bool) -> Any:
    if isinstance(x, Waiting):
        return x.followed_by(function, pads)
    if x.tensor is None:
        return None
    return Quantized(x.grid.padded() if pads else x.grid, function(x.tensor))


def _split(x: Quantized | Waiting, function: Callable[..., Any], rest: Any) -> Any:
    if isinstance(x, Waiting) or x.tensor is None:
        return None
    return tuple(Quantized(x.grid, part) for part in function(x.tensor, *rest))


def _clamped(x: Quantized | Waiting, low: float, high: float) -> Any:
    """Clamp real values by clamping their integers: quantization keeps their order."""
    if isinstance(x, Waiting):
        # Zeros that were put around the values are clamped too.
        return None if x.is_padded and not low <= 0 <= high else x.limited(low, high)
    first, last = x.grid.exact_integer_of(low), x.grid.exact_integer_of(high)
    if x.tensor is None or first is None or last is None:
        return None
    return x.limited(first, last)


def _geometry(
    weight: Integers, rest: Sequence[Any], dimensions: int
) -> tuple[Geometry, list[int] | None]:
    """Read ``stride, padding, dilation, groups``; padding that is uneven comes in front.

    Returns:
        The geometry, and what to pad the input by, last dimension first, or None.
    """
    stride, padding, dilation, groups = (*rest, *(1, 0, 1, 1)[len(rest) :])
    stride, dilation = _each(stride, dimensions), _each(dilation, dimensions)
    before = None
    if padding == "same":
        assert weight.data is not None
        kernel = weight.data.shape[2:]
        totals = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
        padding = [total // 2 for total in totals]
        if any(total % 2 for total in totals):
            before = [n for t in reversed(totals) for n in (t // 2, t - t // 2)]
            padding = 0
    padding = 0 if padding == "valid" else padding
    return Geometry(stride, _each(padding, dimensions), dilation, groups), before


def _each(value: Any, dimensions: int) -> list[int]:
    """Repeat a single number for every spatial dimension."""
    values = [value] if isinstance(value, int) else list(value)
    return values * dimensions if len(values) == 1 else values
