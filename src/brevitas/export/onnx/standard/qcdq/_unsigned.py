"""Activations whose integers a runtime moves, stored as it takes them. Layer: export (L8).

From opset 21 on, ONNX Runtime (measured with 1.32) does not load a file in which an operator that
moves values, such as a Reshape, follows a DequantizeLinear of signed integers: it repeats the
quantizer behind that operator, writes down the type of its integers, and then turns signed integers
into unsigned ones without changing that note. Stored as unsigned integers from the start, 128
further up, the same values load everywhere.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch

from brevitas._compat import require
from brevitas.export.onnx.standard.function import MOVING
from brevitas.export.onnx.standard.qoperator._builder import captured_names

__all__ = ["with_unsigned_moves"]

_STEP = 128
_STANDARD = ("", "ai.onnx")


def with_unsigned_moves(model: Any) -> Any:
    """Store signed 8-bit activations as unsigned ones where an operator moves their values.

    ``(q - z) * scale`` is the same for ``q + 128`` and ``z + 128``.

    Args:
        model: an ``onnx.ModelProto`` in the QCDQ style; it is changed.

    Returns:
        The model.
    """
    return _Unsigned(model).run()


class _Unsigned:
    """One pass over a graph: finds quantizers, and shifts the constants that their nodes read."""

    def __init__(self, model: Any) -> None:
        self.onnx = require("onnx", "export")
        self.model = model
        self.constants = {item.name: item for item in model.graph.initializer}
        self.types = {item.name: item for item in model.graph.value_info}
        self.readers: dict[str, list[Any]] = defaultdict(list)
        for node in model.graph.node:
            for name in captured_names(node):
                self.readers[name].append(node)
        self.outputs = {item.name for item in model.graph.output}

    def run(self) -> Any:
        """Shift every quantizer that needs it."""
        for node in self.model.graph.node:
            if node.op_type == "QuantizeLinear" and node.domain in _STANDARD:
                chain = self._chain(node)
                if chain is not None and self._is_moved(chain):
                    self._shift(chain)
        used = {name for node in self.model.graph.node for name in captured_names(node)}
        used |= self.outputs
        kept = [item for item in self.model.graph.initializer if item.name in used]
        del self.model.graph.initializer[:]
        self.model.graph.initializer.extend(kept)
        return self.model

    def _chain(self, quantize: Any) -> list[Any] | None:
        """List the nodes that share the integers of a quantizer, None unless all can change."""
        zero_point = self.constants.get(quantize.input[2])
        if zero_point is None or zero_point.data_type != self.onnx.TensorProto.INT8:
            return None
        if zero_point.dims:  # a scale per channel: the runtime leaves these as they are
            return None
        chain, integers = [quantize], [quantize.output[0]]
        for name in integers:
            if name in self.outputs:
                return None
            for node in self.readers[name]:
                # Also one inside of a branch, which is listed as a reader of what it captures.
                if node.op_type not in ("Clip", "DequantizeLinear") or node.input[0] != name:
                    return None
                chain.append(node)
                if node.op_type == "Clip":
                    integers.append(node.output[0])
        return chain

    def _is_moved(self, chain: list[Any]) -> bool:
        real = [node.output[0] for node in chain if node.op_type == "DequantizeLinear"]
        return any(node.op_type in MOVING for name in real for node in self.readers[name])

    def _shift(self, chain: list[Any]) -> None:
        """Add 128 to the zero points and limits that the nodes read, and change the types."""
        for node in chain:
            for index in range(1 if node.op_type == "Clip" else 2, len(node.input)):
                node.input[index] = self._shifted(node.input[index])
            name = node.output[0]
            if node.op_type != "DequantizeLinear" and name in self.types:
                self.types[name].type.tensor_type.elem_type = self.onnx.TensorProto.UINT8

    def _shifted(self, name: str) -> str:
        """Name the constant that is 128 above another one, and make it where it is missing."""
        shifted = f"{name}.unsigned"
        if name and shifted not in self.constants:
            signed = torch.tensor(self.onnx.numpy_helper.to_array(self.constants[name]))
            unsigned = (signed.to(torch.int16) + _STEP).to(torch.uint8)
            tensor = self.onnx.numpy_helper.from_array(unsigned.numpy(), shifted)
            self.constants[shifted] = tensor
            self.model.graph.initializer.append(tensor)
        return shifted if name else name
