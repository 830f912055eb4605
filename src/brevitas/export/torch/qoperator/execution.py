"""Run a traced model on quantized tensors, so that TorchScript records their operators.

Layer: export (L8).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from brevitas.export.common.session import ExportSession
from brevitas.export.common.spec import ExportError
from brevitas.export.onnx.standard.qoperator.integers import (
    Integers,
    accumulator_bias,
    needs_input,
)
from brevitas.export.torch.qoperator.layers import Geometry, may_overflow, quantized_layer
from brevitas.export.torch.qoperator.values import Quantized, Waiting

__all__ = ["Execution"]

aten = torch.ops.aten

# What torch.onnx.ops.symbolic becomes in a trace; it exists once that was called.
_SYMBOLIC = "onnx_symbolic._symbolic.default"

# Operators that move values without changing them, or keep the largest. Those with a shape are
# called as methods, which record shapes that depend on the input.
_MOVING: dict[Any, Callable[..., Tensor]] = {
    aten.clone.default: torch.clone,
    aten.contiguous.default: torch.Tensor.contiguous,
    aten.flatten.using_ints: torch.flatten,
    aten.max_pool1d.default: torch.max_pool1d,
    aten.max_pool2d.default: torch.max_pool2d,
    aten.permute.default: torch.permute,
    aten.reshape.default: torch.reshape,
    aten.squeeze.dim: torch.squeeze,
    aten.transpose.int: torch.transpose,
    aten.select.int: torch.select,
    aten.slice.Tensor: aten.slice.Tensor,
    aten.unsqueeze.default: torch.unsqueeze,
    aten.view.default: torch.reshape,
}

_SHAPED: dict[Any, Callable[..., Any]] = {
    aten.expand.default: torch.Tensor.expand,
    aten.reshape.default: torch.reshape,
    aten.view.default: torch.reshape,
}

# Sizes that depend on the input, and the arithmetic on them that TorchScript records.
_SIZES: dict[Any, Callable[..., Any]] = {
    aten.sym_size.int: torch.Tensor.size,
    **{function: function for function in (operator.add, operator.sub, operator.mul)},
    operator.floordiv: operator.floordiv,
}

_CONVOLUTIONS = {
    overload: dimensions
    for dimensions, packet in ((1, aten.conv1d), (2, aten.conv2d), (3, aten.conv3d))
    for overload in (packet.default, packet.padding)
}

_TRANSPOSED = (
    aten.conv_transpose1d.default,
    aten.conv_transpose2d.input,
    aten.conv_transpose3d.input,
)

_JOINING: dict[Any, Callable[..., Tensor]] = {
    aten.add.Tensor: torch.ops.quantized.add,
    aten.mul.Tensor: torch.ops.quantized.mul,
}

# Arguments (minimum, maximum) of operators that clamp, behind the input.
_CLAMPS: dict[Any, Callable[..., tuple[float, float]]] = {
    aten.relu.default: lambda: (0.0, math.inf),
    aten.relu_.default: lambda: (0.0, math.inf),
    aten.relu6.default: lambda: (0.0, 6.0),
    aten.relu6_.default: lambda: (0.0, 6.0),
    aten.hardtanh.default: lambda low=-1.0, high=1.0: (low, high),
    aten.hardtanh_.default: lambda low=-1.0, high=1.0: (low, high),
}


class Execution(fx.Interpreter):
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
        super().__init__(module, garbage_collect_values=False)
        self.extra_traceback = False
        self.session = session
        self.layers = layers
        self.root = root
        self.overflowing: list[str] = []
        self._key = ""
        self._names: dict[tuple[str, str], str] = {}
        self._constants: dict[Any, Any] = {}
        # By identity; kept alive, so that no other tensor gets the same one.
        self._sizes: dict[int, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Remember which node runs: its name is the key of the layer that it becomes."""
        self._key = n.name
        return super().run_node(n)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return a constant outside of autograd, the same one in every run."""
        if target not in self._constants:
            value = super().get_attr(target, args, kwargs)
            self._constants[target] = value.detach() if isinstance(value, Tensor) else value
        return self._constants[target]

    def output(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return real values."""
        return super().output(target, self._real(args, ""), kwargs)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Run an operator on quantized tensors where it is one of those that can."""
        if str(target) == _SYMBOLIC:
            return self._symbolic(args, kwargs)
        if target in _SIZES:
            return self._size(target, self._real(args, "size"))
        if target not in _SHAPED:
            args = self._fixed(args)
        first = args[0] if args else None
        if isinstance(first, (Quantized, Waiting)):
            value = self._on_quantized(target, first, args[1:], kwargs)
            if value is not None:
                return value
        if target is aten.cat.default:
            value = self._concatenated(args)
            if value is not None:
                return value
        weighted = target is aten.linear.default or target in _CONVOLUTIONS
        if weighted and isinstance(args[1], Quantized):
            raise needs_input(self._layer_of(args[1].grid))
        if target in _TRANSPOSED and isinstance(args[1], Quantized):
            raise ExportError(
                "the quantized transposed convolutions of PyTorch are not written; use "
                f"export_torch_qcdq. Layer: {self._layer_of(args[1].grid)}"
            )
        name = getattr(target, "__name__", str(target))
        args, kwargs = self._real(args, name), self._real(kwargs, name)
        function: Any = _SHAPED.get(target) or target
        return function(*args, **kwargs)

    def _on_quantized(self, target: Any, first: Any, rest: Any, kwargs: Any) -> Any:
        """Run an operator on a quantized first argument, or return None."""
        if target is aten.to.dtype and rest[0] is torch.float32:
            return first
        if target in _CLAMPS:
            return _clamped(first, *_CLAMPS[target](*rest))
        moving = _moving(target, rest, kwargs)
        if moving is not None:
            return _moved(first, moving)
        if isinstance(first, Waiting) or first.tensor is None:
            return None
        if target in _JOINING and not kwargs:
            return self._joined(target, first, rest[0])
        if target is aten.linear.default or target in _CONVOLUTIONS:
            return self._weighted(target, first, rest)
        return None

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
        """Let a layer wait for its quantizer; None where its weight is in real values."""
        weight = rest[0]
        if not isinstance(weight, Quantized) or weight.grid.data is None:
            return None
        layer = self._layer_of(weight.grid)
        bias = rest[1] if len(rest) > 1 else None
        bias = bias.grid if isinstance(bias, Quantized) else bias
        geometry, before = None, None
        if target in _CONVOLUTIONS:
            geometry, before = _geometry(weight.grid, rest[2:], _CONVOLUTIONS[target])
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
        first, second, join = x.tensor, other.tensor, _JOINING[target]
        return Waiting(
            "",
            lambda grid: join(first, second, float(grid.scale), int(grid.zero_point)),
            lambda: target(x.dequantized(), other.dequantized()),
        )

    def _concatenated(self, args: Any) -> Quantized | None:
        """Join quantized tensors on one grid; None where they are not."""
        parts = args[0]
        if not all(isinstance(part, Quantized) and part.tensor is not None for part in parts):
            return None
        first = parts[0].grid
        if not all(part.grid.has_grid_of(first) for part in parts):
            return None
        low, high = min(p.grid.low for p in parts), max(p.grid.high for p in parts)
        tensor = torch.cat([part.tensor for part in parts], *args[1:])
        return Quantized(replace(first, low=low, high=high), tensor)

    def _size(self, target: Any, args: Any) -> Any:
        """Compute a size, which is a tensor while TorchScript records."""
        value = _SIZES[target](*args)
        if isinstance(value, Tensor):
            self._sizes[id(value)] = value
        return value

    def _fixed(self, tree: Any) -> Any:
        """Replace sizes by numbers, for operators that record no size."""
        if isinstance(tree, (tuple, list)):
            return type(tree)(self._fixed(item) for item in tree)
        return int(tree) if id(tree) in self._sizes else tree

    def _layer_of(self, weight: Integers) -> str:
        return weight.proxy.rpartition(".")[0] or self.root

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


def _moving(target: Any, rest: Any, kwargs: Any) -> Callable[[Tensor], Tensor] | None:
    """Return the function that moves values, for an operator that does nothing else."""
    if target in _MOVING:
        function = _MOVING[target]
        return lambda x: function(x, *rest, **kwargs)
    if target is aten.max_pool3d.default:
        return lambda x: _as_real(x, lambda real: torch.max_pool3d(real, *rest))
    if target is aten.dropout.default and not rest[1]:
        return lambda x: x
    if target is aten.pad.default:
        mode = rest[1] if len(rest) > 1 else "constant"
        fill = rest[2] if len(rest) > 2 else None
        if mode == "constant" and not fill:
            return lambda x: F.pad(x, list(rest[0]))
        # Of these, PyTorch has kernels for reflection in one and two dimensions only.
        if mode == "reflect" and len(rest[0]) <= 4:
            return lambda x: F.pad(x, list(rest[0]), mode)
        if mode != "constant":
            return lambda x: _as_real(x, lambda real: F.pad(real, list(rest[0]), mode))
    return None


def _as_real(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Move the values of a quantized tensor where no kernel moves its integers."""
    real = function(x.dequantize())
    return torch.quantize_per_tensor(real, x.q_scale(), x.q_zero_point(), torch.quint8)


def _moved(x: Quantized | Waiting, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(x, Waiting):
        return x.followed_by(function)
    return None if x.tensor is None else Quantized(x.grid, function(x.tensor))


def _clamped(x: Quantized | Waiting, low: float, high: float) -> Any:
    """Clamp real values by clamping their integers: quantization keeps their order."""
    if isinstance(x, Waiting):
        return x.limited(low, high)
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
