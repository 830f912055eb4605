"""A graph that is written anew, node by node, next to the old one. Layer: export (L8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from brevitas._compat import require
from brevitas.export.onnx._write import LARGEST_MESSAGE

__all__ = ["Builder", "captured_names"]


def captured_names(node: Any) -> list[str]:
    """Name every tensor that a node reads, those inside of its subgraphs included.

    Args:
        node: an ``onnx.NodeProto``.

    Returns:
        Names in order; names that only exist inside of a subgraph are among them.
    """
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        if attribute.HasField("g"):
            for inner in attribute.g.node:
                names += captured_names(inner)
            names += [item.name for item in attribute.g.output]
    return names


class Builder:
    """Collects the nodes and constants that replace those of a graph.

    Args:
        model: an ``onnx.ModelProto``; it is changed by ``finish`` only.
    """

    def __init__(self, model: Any) -> None:
        self.onnx = require("onnx", "export")
        self.model = model
        self.nodes: list[Any] = []
        self._initializers = {item.name: item for item in model.graph.initializer}
        self._values: dict[str, Tensor] = {}
        outputs = [name for node in model.graph.node for name in node.output]
        inputs = [item.name for item in model.graph.input]
        self._taken = {*self._initializers, *outputs, *inputs}
        described = (*model.graph.value_info, *model.graph.input, *model.graph.output)
        self._ranks = {
            item.name: len(item.type.tensor_type.shape.dim)
            for item in described
            if item.type.tensor_type.HasField("shape")
        }

    def rank(self, name: str) -> int | None:
        """Number of dimensions of a tensor of the old graph, None where the graph does not say."""
        return self._ranks.get(name)

    def constant(self, name: str) -> Tensor | None:
        """Value of a constant, None for a tensor that is computed."""
        if name not in self._values and name in self._initializers:
            array = self.onnx.numpy_helper.to_array(self._initializers[name])
            self._values[name] = torch.from_numpy(array.copy())
        return self._values.get(name)

    def unique(self, name: str) -> str:
        """Return ``name``, numbered where the graph has it already, and reserve it."""
        chosen, suffix = name, 1
        while chosen in self._taken:
            chosen, suffix = f"{name}_{suffix}", suffix + 1
        self._taken.add(chosen)
        return chosen

    def add_constant(self, value: Tensor, name: str) -> str:
        """Keep a value in the file, once for equal ones of a name, and return its name there."""
        chosen, suffix = name, 1
        while chosen in self._taken:
            known = self.constant(chosen)
            if known is not None and known.dtype == value.dtype and torch.equal(known, value):
                return chosen
            chosen, suffix = f"{name}_{suffix}", suffix + 1
        name = self.unique(chosen)
        array = value.detach().cpu().contiguous().numpy()
        self._initializers[name] = self.onnx.numpy_helper.from_array(array, name)
        self._values[name] = value
        return name

    def add(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        name: str,
        attributes: Sequence[Any] = (),
        **values: Any,
    ) -> None:
        """Write a node.

        Args:
            operator: name of the standard operator.
            inputs: tensors it reads.
            outputs: tensors it computes.
            name: what it stands for, the start of its name.
            attributes: attributes to copy from another node.
            **values: further attributes.
        """
        node = self.onnx.helper.make_node(
            operator, list(inputs), list(outputs), f"{name}/{operator}_{outputs[0]}", **values
        )
        node.attribute.extend(attributes)
        self.nodes.append(node)

    def finish(self) -> Any:
        """Put the new nodes and the constants that they read into the model, and return it."""
        graph = self.model.graph
        used = {name for node in self.nodes for name in captured_names(node)}
        used |= {item.name for item in graph.output}
        computed = {name for node in self.nodes for name in node.output}
        described = [item for item in graph.value_info if item.name in computed]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        graph.initializer.extend(t for name, t in self._initializers.items() if name in used)
        graph.value_info.extend(described)
        if self.model.ByteSize() < LARGEST_MESSAGE:
            return self.onnx.shape_inference.infer_shapes(self.model)
        return self.model
