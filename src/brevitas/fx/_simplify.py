"""What a trace records and a graph does not need: questions without users, and in-place operators
on values that nobody else sees.

Layer: fx (L2).
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node, Proxy
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from brevitas.fx._rebuild import INPLACE_OPERATORS

__all__ = ["FRESH", "StorageUses", "drop_unused_queries", "mark_fresh", "prefer_out_of_place"]

# Mark of a node whose in-place operator changes a tensor that nothing else reads.
FRESH = "brevitas_fresh_operand"

# Methods and functions of torch that answer a question and do nothing else.
_QUERIES = frozenset(
    "all allclose amax amin any argmax argmin count_nonzero dim element_size eq equal "
    "ge gt is_complex is_contiguous is_floating_point isfinite isinf isnan item le lt max mean "
    "min ndimension ne nelement norm numel size std stride sum tolist var abs".split()
)
_PURE_OPERATORS = frozenset(
    function
    for name, function in vars(operator).items()
    if callable(function)
    and not name.startswith("_")
    and function not in INPLACE_OPERATORS
    and name not in ("call", "delitem", "iconcat", "methodcaller", "setitem")
)


def _is_query(node: Node, tensors: set[Node]) -> bool:
    if "out" in node.kwargs:
        return False
    if node.op == "call_method":
        return node.target in _QUERIES and node.args[0] in tensors
    if node.op == "get_attr":
        return True
    if node.op != "call_function":
        return False
    target: Any = node.target
    if target is getattr or target in _PURE_OPERATORS:
        return True
    name = getattr(target, "__name__", "")
    return target is getattr(math, name, None) or (
        name in _QUERIES and target is getattr(torch, name, None)
    )


def drop_unused_queries(graph: Graph, tensors: set[Node]) -> None:
    """Erase comparisons, sizes and reductions whose result only decided a branch of the trace.

    Args:
        graph: The recorded graph, changed in place.
        tensors: The nodes that compute a tensor or a size.
    """
    for node in reversed(graph.nodes):
        if not node.users and _is_query(node, tensors):
            graph.erase_node(node)


class StorageUses:
    """Counts, for each piece of memory that is alive, how many recorded values lie in it.

    Args:
        root: The model; its parameters and buffers are known from the start.
    """

    def __init__(self, root: torch.nn.Module) -> None:
        self._uses: dict[int, tuple[StorageWeakRef, int]] = {}
        for tensor in (*root.parameters(), *root.buffers()):
            self.add(tensor)

    def add(self, value: Any) -> None:
        """Count the tensors of a value, at any depth."""
        for leaf in tree_leaves(value):
            storage = _storage(leaf)
            if storage is None:
                continue
            known = self._uses.get(storage.cdata)
            count = 0 if known is None or known[0].expired() else known[1]
            self._uses[storage.cdata] = (storage, count + 1)

    def is_sole(self, tensor: Tensor) -> bool:
        """Whether one recorded value alone lies in the memory of a tensor."""
        storage = _storage(tensor)
        return storage is not None and self._uses.get(storage.cdata, (None, 0))[1] == 1

    def is_fresh(self, proxy: Any, left: Any, right: Any) -> bool:
        """Whether `left += right` changes a tensor that the model has just made, and only that.

        Args:
            proxy: The operand on the left as it was given.
            left: Its value.
            right: The value of the operand on the right.

        Returns:
            False also where `left + right` would have another type than `left`.
        """
        if not isinstance(proxy, Proxy) or not isinstance(left, Tensor):
            return False
        if proxy.node.op in ("placeholder", "get_attr") or not self.is_sole(left):
            return False
        is_operand = isinstance(right, (Tensor, bool, int, float))
        return is_operand and torch.result_type(left, right) == left.dtype


def _storage(leaf: Any) -> StorageWeakRef | None:
    if not isinstance(leaf, Tensor):
        return None
    try:
        return StorageWeakRef(leaf.untyped_storage())
    except (NotImplementedError, RuntimeError):
        return None  # a sparse or wrapped tensor has no memory of its own to compare


# Layers and functions that return a tensor of their own, never one that they were given.
_FRESH_LAYERS = (
    *(torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d),
    *(torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d),
    *(torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d),
    *(torch.nn.Embedding, torch.nn.GroupNorm, torch.nn.LayerNorm, torch.nn.Linear),
    *(torch.nn.AvgPool1d, torch.nn.AvgPool2d, torch.nn.AvgPool3d),
    *(torch.nn.MaxPool1d, torch.nn.MaxPool2d, torch.nn.MaxPool3d),
)
_FRESH_FUNCTIONS = frozenset(
    [operator.add, operator.sub, operator.mul, operator.truediv, operator.matmul, operator.neg]
    + [operator.pow, torch.add, torch.sub, torch.mul, torch.div, torch.matmul, torch.bmm, torch.mm]
    + [torch.cat, torch.stack, torch.relu, torch.sigmoid, torch.tanh, torch.nn.functional.linear]
    + [torch.conv1d, torch.conv2d, torch.conv3d, torch.nn.functional.conv1d]
    + [torch.nn.functional.conv2d, torch.nn.functional.conv3d]
)


def mark_fresh(graph: Graph, root: torch.nn.Module) -> None:
    """Mark in-place operators whose operand is, by what computes it, a tensor of its own.

    Args:
        graph: A graph that was recorded without values.
        root: The model.
    """
    for node in graph.nodes:
        if node.target in INPLACE_OPERATORS and isinstance(node.args[0], Node):
            if _is_fresh(node.args[0], root):
                node.meta[FRESH] = True


def _is_fresh(node: Node, root: torch.nn.Module) -> bool:
    if node.op == "call_module":
        return isinstance(root.get_submodule(str(node.target)), _FRESH_LAYERS)
    if node.op != "call_function" or "out" in node.kwargs:
        return False
    if node.target in INPLACE_OPERATORS:
        return node.meta.get(FRESH, False) and set(node.all_input_nodes[0].users) == {node}
    return node.target in _FRESH_FUNCTIONS


def prefer_out_of_place(graph: Graph) -> None:
    """Turn `a += b` into `a + b` where nothing else reads the tensor `a`.

    Transformations look for residual additions as `operator.add`, and the result is equal.

    Args:
        graph: The recorded graph, changed in place.
    """
    for node in graph.nodes:
        if node.meta.pop(FRESH, False) and set(node.all_input_nodes[0].users) == {node}:
            node.target = INPLACE_OPERATORS[node.target]
