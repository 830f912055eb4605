"""From quantize and dequantize around float operators to operators on integers.

Layer: export (L8).

Specification: https://onnx.ai/onnx/operators/onnx__QLinearConv.html and QLinearMatMul.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from brevitas.export.common.integers import (
    EIGHT_BITS,
    Integers,
    needs_input,
    needs_output,
)
from brevitas.export.common.spec import ExportError
from brevitas.export.onnx.standard.function import MOVING
from brevitas.export.onnx.standard.qoperator._builder import Builder, captured_names
from brevitas.export.onnx.standard.qoperator._pending import (
    Pending,
    limit,
    move,
    split,
    write_pending,
)

__all__ = ["fuse"]

_STANDARD = ("", "ai.onnx")

# Operators whose weight is to be integers, if it is quantized; these read it or their input first.
_LAYERS = ("Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul")

_NO_OPERATOR = (
    "standard ONNX has no operator on integers for this {}; use export_onnx_qcdq. Layer: {}"
)


def fuse(model: Any, root: str) -> Any:
    """Replace each layer and the quantizers around it by one operator on integers.

    Args:
        model: an ``onnx.ModelProto`` in the QCDQ style; it is changed.
        root: name of the whole model, for messages about a layer that is all of it.

    Returns:
        The model of integer operators.

    Raises:
        ExportError: on a layer whose input or output is not quantized, or that has no integer
            operator.
    """
    return Fusion(model, root).run()


class Fusion:
    """One walk over a graph in the order of its nodes.

    A value is written in the form in which it is read: dequantization and layers wait until
    a later node asks for real values or quantizes.

    Attributes:
        stored: integers of tensors whose real values may not have been written.
        moved: integers of the old graph, where they are in the new one.
        pending: layers that wait for the quantizer of their output.
        weights: real values that are made of quantized weights and other constants.
    """

    def __init__(self, model: Any, root: str) -> None:
        self.builder = Builder(model)
        self.root = root
        self.stored: dict[str, Integers] = {}
        self.moved: dict[str, Integers] = {}
        self.pending: dict[str, Pending] = {}
        self.weights: dict[str, Integers] = {}
        self._real: set[str] = set()
        moving: dict[str, Callable[[Any], bool]] = dict.fromkeys(MOVING, self._move)
        self._rules: dict[str, Callable[[Any], bool]] = moving | {
            "Add": self._add,
            "Clip": self._clip,
            "Concat": self._concat,
            "Conv": self._conv,
            "DequantizeLinear": self._dequantize,
            "Gemm": self._gemm,
            "MatMul": self._matmul,
            "QuantizeLinear": self._quantize,
            "Relu": self._relu,
            "Split": self._split,
        }

    def run(self) -> Any:
        """Walk, and return the new model."""
        graph = self.builder.model.graph
        for node in graph.node:
            rule = self._rules.get(node.op_type) if node.domain in _STANDARD else None
            if rule is None or not rule(node):
                self._keep(node)
        for output in graph.output:
            self._make_real(output.name)
        return self.builder.finish()

    def _keep(self, node: Any) -> None:
        """Copy a node, behind the real values that it reads."""
        names = captured_names(node)
        self._follow_weights(node, names)
        for name in names:
            self._make_real(name, node.op_type)
        self.builder.nodes.append(node)

    def _follow_weights(self, node: Any, names: list[str]) -> None:
        """Raise where a layer computes with a quantized weight in real values.

        A node that reads nothing but weights and other constants hands a weight on.
        """
        weights = [self._weight(name) for name in names]
        weight = next((item for item in weights if item is not None), None)
        if weight is None:
            return
        if node.op_type in _LAYERS and any(item is not None for item in weights[:2]):
            raise ExportError(_NO_OPERATOR.format(node.op_type, weight.layer(self.root)))
        constant = self.builder.constant
        if all(
            i is not None or constant(n) is not None for i, n in zip(weights, names, strict=True)
        ):
            self.weights.update(dict.fromkeys(node.output, weight))

    def _weight(self, name: str) -> Integers | None:
        """Find the quantized weight that a value was made from."""
        stored = self.stored.get(name)
        return stored if stored is not None and stored.data is not None else self.weights.get(name)

    def _make_real(self, name: str, reader: str = "") -> None:
        """Write the real values of a tensor unless the graph has them."""
        if name in self._real:
            return
        if name in self.pending:
            pending = self.pending[name]
            if not pending.is_optional:
                raise needs_output(pending.weight.layer(self.root), reader, "export_onnx_qcdq")
            self._real.add(name)
            self._keep(pending.last)
        elif name in self.stored:
            self._real.add(name)
            self._write_dequantize(self.stored[name], name)

    def _write_dequantize(self, source: Integers, output: str) -> None:
        builder, proxy = self.builder, source.proxy
        scale = builder.add_constant(source.scale, f"{proxy}.scale")
        zero_point = builder.add_constant(source.zero_point, f"{proxy}.zero_point")
        integers = source.name
        if source.data is not None:
            integers = builder.add_constant(source.data, f"{proxy}.integers")
        values: dict[str, Any] = {} if source.axis is None else {"axis": source.axis}
        builder.add("DequantizeLinear", (integers, scale, zero_point), (output,), proxy, **values)

    def _grid(self, node: Any, name: str, data: Tensor | None = None) -> Integers | None:
        """Read what a QuantizeLinear or DequantizeLinear says, None where it is computed."""
        scale = self.builder.constant(node.input[1])
        zero_point = self.builder.constant(node.input[2])
        if scale is None or zero_point is None or scale.dtype != torch.float32:
            return None
        axis = next((item.i for item in node.attribute if item.name == "axis"), 1)
        proxy = node.name.partition("/")[0]
        return Integers.full_range(name, scale, zero_point, axis, proxy, data)

    def _quantize(self, node: Any) -> bool:
        target = self._grid(node, node.output[0])
        if target is None:
            return False
        source = self.stored.get(node.input[0])
        if node.input[0] in self.pending:
            pending = self.pending[node.input[0]]
            self.moved[node.output[0]] = write_pending(self.builder, pending, target, self.root)
        elif source is not None and source.data is None and source.has_grid_of(target):
            shift = int(source.zero_point.to(torch.int16) - target.zero_point.to(torch.int16))
            self.moved[node.output[0]] = replace(source, shift=shift)
        else:
            self._keep(node)
            self.moved[node.output[0]] = target
        return True

    def _dequantize(self, node: Any) -> bool:
        data = self.builder.constant(node.input[0])
        if data is not None:
            grid = self._grid(node, node.input[0], data)
        else:
            grid = self.moved.get(node.input[0])
        if grid is None:
            return False
        self.stored[node.output[0]] = grid
        return True

    def _bounds(self, node: Any) -> tuple[float, float] | None:
        """Read the limits of a Clip, None where they are computed."""
        limits = [-math.inf, math.inf]
        for position, name in enumerate(node.input[1:3]):
            value = self.builder.constant(name) if name else None
            if name and value is None:
                return None
            if value is not None:
                limits[position] = float(value)
        return limits[0], limits[1]

    def _clip(self, node: Any) -> bool:
        limits = self._bounds(node)
        if limits is None:
            return False
        source = self.moved.get(node.input[0])
        if source is None:
            return self._clip_real(node, *limits)
        low, high = (limit + source.shift for limit in limits)
        self.moved[node.output[0]] = limit(self.builder, source, low, high)
        return True

    def _relu(self, node: Any) -> bool:
        return self._clip_real(node, 0.0, math.inf)

    def _clip_real(self, node: Any, low: float, high: float) -> bool:
        """Clamp real values by clamping their integers: quantization keeps their order."""
        source = self.stored.get(node.input[0])
        if node.input[0] in self.pending:
            pending = self.pending[node.input[0]]
            # Zeros that were put around the values are clamped too.
            if pending.is_padded and not low <= 0 <= high:
                return False
            self.pending[node.output[0]] = pending.limited(node, low, high)
            return True
        if source is None or source.data is not None or source.axis is not None:
            return False
        first, last = source.exact_integer_of(low), source.exact_integer_of(high)
        if first is None or last is None:
            return False
        self.stored[node.output[0]] = limit(self.builder, source, first, last)
        return True

    def _move(self, node: Any) -> bool:
        name = node.input[0]
        source = self.stored.get(name)
        if sum(bool(output) for output in node.output) > 1:
            return False
        if source is not None and source.data is not None:
            if node.op_type != "Transpose" or source.data.dim() != 2:
                return False
            self.stored[node.output[0]] = source.transposed()
            return True
        if not _moves_integers(node, self.builder) or self._are_real(node.input[1:]):
            return False
        if name in self.pending:
            self.pending[node.output[0]] = self.pending[name].followed_by(node)
        elif source is not None and source.axis is None and source.dtype in EIGHT_BITS:
            self.stored[node.output[0]] = move(self.builder, source, node)
        else:
            return False
        return True

    def _are_real(self, names: Any) -> bool:
        """Whether any of the tensors is one that may only be there as integers."""
        return any(name in self.stored or name in self.pending for name in names)

    def _split(self, node: Any) -> bool:
        source = self.stored.get(node.input[0])
        if source is None or source.data is not None or source.axis is not None:
            return False
        parts = split(self.builder, source, node)
        self.stored.update(zip(node.output, parts, strict=True))
        return True

    def _concat(self, node: Any) -> bool:
        sources = [self.stored.get(name) for name in node.input]
        first = sources[0]
        if first is None or first.axis is not None:
            return False
        for source in sources:
            same = source is not None and source.data is None and source.dtype == first.dtype
            if source is None or not same or not source.has_grid_of(first):
                return False
        names = [source.name for source in sources if source is not None]
        output = self.builder.unique(f"{node.output[0]}.integers")
        self.builder.add("Concat", names, (output,), first.proxy, node.attribute)
        low = min(source.low for source in sources if source is not None)
        high = max(source.high for source in sources if source is not None)
        self.stored[node.output[0]] = replace(first, name=output, low=low, high=high)
        return True

    def _conv(self, node: Any) -> bool:
        return self._layer(node, self.stored.get(node.input[1]), node.input[2:])

    def _gemm(self, node: Any) -> bool:
        weight = self.stored.get(node.input[1])
        given = {item.name: item.f or item.i for item in node.attribute}
        plain = not given.get("transA", 0) and all(given.get(n, 1) == 1 for n in ("alpha", "beta"))
        if weight is None or weight.data is None or not plain:
            return False
        weight = weight.transposed() if given.get("transB", 0) else weight
        return self._layer(node, weight, node.input[2:])

    def _matmul(self, node: Any) -> bool:
        weight = self.stored.get(node.input[1])
        if weight is None or weight.data is not None:
            return self._layer(node, weight, ())
        source = self.stored.get(node.input[0])
        if source is None or source.data is not None or source.axis is not None:
            return False
        if weight.axis is not None or (source.dtype, weight.dtype) == EIGHT_BITS:
            return False
        self.pending[node.output[0]] = Pending(node, node, source, weight, is_optional=True)
        return True

    def _layer(self, node: Any, weight: Integers | None, bias: Any) -> bool:
        """Let a layer of a constant weight wait for the quantizer of its output."""
        if weight is None or weight.data is None:
            return False
        source = self.stored.get(node.input[0])
        if source is None or source.data is not None:
            raise needs_input(weight.layer(self.root))
        vector = self._bias(bias[0]) if bias else None
        if bias and vector is None:
            return False
        rank = self.builder.rank(node.input[0])
        self.pending[node.output[0]] = Pending(node, node, source, weight, vector, rank)
        return True

    def _bias(self, name: str) -> Integers | Tensor | None:
        stored = self.stored.get(name)
        if stored is not None:
            return stored if stored.data is not None else None
        return self.builder.constant(name)

    def _add(self, node: Any) -> bool:
        """Take the bias that follows a product of matrices into it."""
        for name, other in (list(node.input), list(reversed(node.input))):
            pending, bias = self.pending.get(name), self._bias(other)
            if pending is None or bias is None or not pending.takes_bias(bias):
                continue
            self.pending[node.output[0]] = replace(pending, last=node, bias=bias)
            return True
        return False


def _moves_integers(node: Any, builder: Builder) -> bool:
    """Whether a node does to integers what it does to real values.

    Padding must be with zeros, resizing to the nearest value.
    """
    if node.op_type == "Resize":
        modes = {item.name: item.s for item in node.attribute if item.name.endswith("mode")}
        crops = modes.get("coordinate_transformation_mode") == b"tf_crop_and_resize"
        return modes.get("mode", b"nearest") == b"nearest" and not crops
    if node.op_type != "Pad" or len(node.input) < 3 or not node.input[2]:
        return True
    value = builder.constant(node.input[2])
    return value is not None and float(value) == 0.0
