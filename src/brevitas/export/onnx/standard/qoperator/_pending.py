"""Layers that wait for the quantizer of their output, and how they are written.

Layer: export (L8).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from brevitas.export.common.integers import (
    EIGHT_BITS,
    Integers,
    accumulator_bias,
)
from brevitas.export.common.spec import ExportError
from brevitas.export.onnx.standard.qoperator._builder import Builder

__all__ = ["Pending", "limit", "move", "split", "write_pending"]


@dataclass(frozen=True, eq=False)
class Pending:
    """A layer on integers whose output is not quantized yet.

    Args:
        node: the Conv, Gemm or MatMul.
        last: node of the old graph that computes the value that waits.
        source: input of the layer.
        weight: its weight; a matrix is ``[in, out]``.
        bias: its bias, in integers or real values, ``[out]``.
        rank: number of dimensions of the input, None where unknown.
        is_optional: whether the layer may as well stay in real values.
        low: smallest real value behind the layer.
        high: largest real value behind the layer.
        tail: nodes behind the layer that only move values.
        is_padded: whether one of these puts zeros around the values.
    """

    node: Any
    last: Any
    source: Integers
    weight: Integers
    bias: Integers | Tensor | None = None
    rank: int | None = None
    is_optional: bool = False
    low: float = -math.inf
    high: float = math.inf
    tail: tuple[Any, ...] = ()
    is_padded: bool = False

    def limited(self, node: Any, low: float, high: float) -> Pending:
        """Return the same with a clamp behind it."""
        low, high = (min(max(limit, low), high) for limit in (self.low, self.high))
        return replace(self, last=node, low=low, high=high)

    def followed_by(self, node: Any) -> Pending:
        """Return the same with a node behind it that moves values, or puts zeros around."""
        is_padded = self.is_padded or node.op_type == "Pad"
        return replace(self, last=node, tail=(*self.tail, node), is_padded=is_padded)

    def takes_bias(self, bias: Integers | Tensor) -> bool:
        """Whether a vector that is added is the bias of this product of matrices."""
        values = bias.data if isinstance(bias, Integers) else bias
        if self.node is not self.last or self.node.op_type != "MatMul" or self.bias is not None:
            return False
        if values is None or self.weight.data is None:
            return False
        return tuple(values.shape) == (self.weight.data.shape[1],)


def limit(builder: Builder, source: Integers, low: float, high: float) -> Integers:
    """Clamp integers, where the limits are inside of their range."""
    low = int(min(max(low, source.low), source.high))
    high = int(min(max(high, source.low), source.high))
    if (low, high) == (source.low, source.high):
        return source
    bounds = [
        builder.add_constant(torch.tensor(value, dtype=source.dtype), f"{source.proxy}.{meaning}")
        for value, meaning in ((low, "minimum"), (high, "maximum"))
    ]
    output = builder.unique(f"{source.name}.limited")
    builder.add("Clip", (source.name, *bounds), (output,), source.proxy)
    return replace(source, name=output, low=low, high=high)


def move(builder: Builder, source: Integers, node: Any) -> Integers:
    """Write a node that moves values so that it moves integers."""
    inputs = [source.name, *node.input[1:]]
    if node.op_type == "Pad":
        # In the modes that repeat values, the value to pad with is read by nobody.
        zero = builder.add_constant(source.zero_point, f"{source.proxy}.zero_point")
        inputs = [source.name, node.input[1], zero, *node.input[3:]]
        source = source.padded()
    output = builder.unique(f"{node.output[0]}.integers")
    builder.add(node.op_type, inputs, (output,), source.proxy, node.attribute)
    return replace(source, name=output)


def split(builder: Builder, source: Integers, node: Any) -> list[Integers]:
    """Write a node that deals values out so that it deals out integers."""
    outputs = [builder.unique(f"{name}.integers") for name in node.output]
    inputs = (source.name, *node.input[1:])
    builder.add(node.op_type, inputs, outputs, source.proxy, node.attribute)
    return [replace(source, name=output) for output in outputs]


def write_pending(builder: Builder, pending: Pending, target: Integers, root: str) -> Integers:
    """Write a layer and the quantizer of its output as one operator.

    Args:
        builder: the new graph.
        pending: the layer.
        target: grid of the output.
        root: name of the whole model, for messages.

    Returns:
        The output, which has the dtype of the layer's input.
    """
    source, weight, layer = pending.source, pending.weight, pending.weight.layer(root)
    for item, what in ((source, "input"), (target, "output"), (weight, "weight")):
        if item.dtype not in EIGHT_BITS or (item.axis is not None and item is not weight):
            raise ExportError(
                f"{what}: an integer operator needs 8 bits, and one scale for an activation; "
                f"use export_onnx_qcdq. Layer: {layer}"
            )
    if source.dtype == torch.int8:
        weight = weight.moved_to(torch.int8)
    output = replace(target.moved_to(source.dtype), name=builder.unique(f"{layer}.integers"))
    if pending.bias is None and pending.node.op_type != "Conv":
        _write_matmul(builder, pending, weight, output, layer)
    elif pending.node.op_type == "Conv":
        bias = _bias(builder, pending, weight, output, layer)
        inputs = (source.name, *_operands(builder, source, weight, output), *bias)
        _check_axis(weight, 0, layer)
        builder.add("QLinearConv", inputs, (output.name,), layer, pending.node.attribute)
    else:
        _write_linear(builder, pending, weight, output, layer)
    low, high = (output.integer_of(real) for real in (pending.low, pending.high))
    output = limit(builder, output, low, high)
    for node in pending.tail:
        output = move(builder, output, node)
    return output


def _check_axis(weight: Integers, expected: int, layer: str) -> None:
    if weight.axis not in (None, expected):
        raise ExportError(
            "weight scale: an integer operator takes one scale, or one for each output channel; "
            f"use export_onnx_qcdq. Layer: {layer}"
        )


def _operands(
    builder: Builder, source: Integers, weight: Integers, output: Integers
) -> Sequence[str]:
    """Name all that the operators read beside the input and the bias, in their order."""
    if weight.data is None:
        integers = weight.name
    else:
        integers = builder.add_constant(weight.data, f"{weight.proxy}.integers")
    grids = [
        builder.add_constant(value, f"{item.proxy}.{meaning}")
        for item in (source, weight, output)
        for value, meaning in ((item.scale, "scale"), (item.zero_point, "zero_point"))
    ]
    return (*grids[:2], integers, *grids[2:])


def _bias(
    builder: Builder, pending: Pending, weight: Integers, output: Integers, layer: str
) -> Sequence[str]:
    """Store the bias in steps of the accumulator; no name where there is none."""
    if pending.bias is None or weight.data is None:
        return ()
    accumulator_scale = pending.source.scale * weight.scale
    bias = accumulator_bias(pending.bias, accumulator_scale, output.scale, layer)
    if bias.numel() == 1:
        bias = bias.expand(weight.data.shape[0 if pending.node.op_type == "Conv" else 1])
    return (builder.add_constant(bias, f"{layer}.bias_quant.integers"),)


def _write_matmul(
    builder: Builder, pending: Pending, weight: Integers, output: Integers, layer: str
) -> None:
    if weight.data is not None:
        _check_axis(weight, 1, layer)
    inputs = (pending.source.name, *_operands(builder, pending.source, weight, output))
    builder.add("QLinearMatMul", inputs, (output.name,), layer)


def _write_linear(
    builder: Builder, pending: Pending, weight: Integers, output: Integers, layer: str
) -> None:
    """Write a linear layer with a bias as a convolution over single positions."""
    assert weight.data is not None
    _check_axis(weight, 1, layer)
    rank = pending.rank
    if rank is None:
        raise ExportError(
            "the number of dimensions of the input is not known, which a linear layer with a bias "
            f"needs; pass bias=False, or use export_onnx_qcdq. Layer: {layer}"
        )
    spatial = [1] * max(rank - 2, 1)
    data = weight.data.t().reshape(*weight.data.t().shape, *spatial).contiguous()
    kernel = replace(weight, data=data, axis=None if weight.axis is None else 0)
    if rank > 2:
        forth = ("Transpose", (), {"perm": [0, rank - 1, *range(1, rank - 1)]})
        back = ("Transpose", (), {"perm": [0, *range(2, rank), 1]})
    else:
        axes = torch.tensor([2] if rank == 2 else [0, 2])
        extra = (builder.add_constant(axes, f"{layer}.axes"),)
        forth, back = ("Unsqueeze", extra, {}), ("Squeeze", extra, {})
    names = [builder.unique(f"{output.name}.{end}") for end in ("channels_second", "positions")]
    bias = _bias(builder, pending, weight, output, layer)
    builder.add(forth[0], (pending.source.name, *forth[1]), names[:1], layer, **forth[2])
    inputs = (names[0], *_operands(builder, pending.source, kernel, output), *bias)
    builder.add("QLinearConv", inputs, names[1:], layer)
    builder.add(back[0], (names[1], *back[1]), (output.name,), layer, **back[2])
