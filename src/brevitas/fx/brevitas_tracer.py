"""Functions that turn a model into a graph, whole or with quantized layers as single nodes.

Layer: fx (L2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Tracer

from brevitas.common import LayerProtocol
from brevitas.fx._location import explain
from brevitas.fx._patches import FNS_TO_PATCH, always_recorder, patched_functions
from brevitas.fx._rebuild import CodeTracer, RecordingTracer
from brevitas.fx._simplify import mark_fresh, prefer_out_of_place
from brevitas.fx.value_tracer import UnsetValueException, ValueTracer

__all__ = [
    "FNS_TO_PATCH",
    "BrevitasSymbolicTracer",
    "BrevitasValueTracer",
    "brevitas_symbolic_trace",
    "brevitas_value_trace",
    "symbolic_trace",
    "value_trace",
]

Root = torch.nn.Module | Callable[..., Any]
Arguments = Mapping[str, Any] | tuple[Any, ...] | None

_LIBRARY = __name__.partition(".")[0] + "."
_SYMBOLIC_REMEDY = (
    "Remedy: value_trace(model, value_args={name: example}) follows the values of an example "
    "input; quantized layers stay whole under brevitas_symbolic_trace and brevitas_value_trace."
)


def _is_quantized_part(module: torch.nn.Module) -> bool:
    """Whether a module belongs to the library, or is a layer built on it."""
    return isinstance(module, LayerProtocol) or type(module).__module__.startswith(_LIBRARY)


class BrevitasSymbolicTracer(RecordingTracer):
    """Symbolic tracer that keeps quantized layers, and the parts they are made of, as one node."""

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        """Whether a module becomes one node.

        Args:
            m: The module.
            module_qualified_name: Its dotted name in the model.

        Returns:
            True for the layers of torch and for quantized layers.
        """
        return _is_quantized_part(m) or Tracer.is_leaf_module(self, m, module_qualified_name)


class BrevitasValueTracer(ValueTracer):
    """Value tracer that keeps quantized layers, and the parts they are made of, as one node."""

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        """Whether a module becomes one node; see `BrevitasSymbolicTracer.is_leaf_module`."""
        return _is_quantized_part(m) or Tracer.is_leaf_module(self, m, module_qualified_name)


def symbolic_trace(root: Root, concrete_args: Any = None) -> GraphModule:
    """Trace a model without values; quantized layers are gone through like any other.

    Args:
        root: A model or a function.
        concrete_args: Arguments by name that become part of the graph.

    Returns:
        A module that computes what the model computes.

    Raises:
        TraceError: The model branches or loops on a value. The message names layer and line.

    Example:
        >>> traced = symbolic_trace(torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.ReLU()))
        >>> [node.target for node in traced.graph.nodes]
        ['input', '0', '1', 'output']
    """
    return _symbolic(RecordingTracer(autowrap_functions=tuple(FNS_TO_PATCH)), root, concrete_args)


def brevitas_symbolic_trace(root: Root, concrete_args: Any = None) -> GraphModule:
    """Trace a model without values, each quantized layer as one node.

    Args:
        root: A model or a function.
        concrete_args: Arguments by name that become part of the graph.

    Returns:
        A module that computes what the model computes.

    Raises:
        TraceError: The model branches or loops on a value. The message names layer and line.

    Example:
        >>> traced = brevitas_symbolic_trace(lambda x: x.relu() + 1)
        >>> traced(torch.tensor([-1., 1.]))
        tensor([1., 2.])
    """
    tracer = BrevitasSymbolicTracer(autowrap_functions=tuple(FNS_TO_PATCH))
    return _symbolic(tracer, root, concrete_args)


def value_trace(
    root: Root, concrete_args: Arguments = None, value_args: Arguments = None
) -> GraphModule:
    """Trace a model along example inputs: through branches, loops and unpacking.

    The result computes what the model computes for every input that takes the same path. Where it
    depends on the example is listed in `meta["specialized"]` as (line, question, node, answer).

    Args:
        root: A model or a function; it is run once.
        concrete_args: Arguments that become part of the graph, by name or by position. Calling
            the traced model with another value for them raises a ValueError.
        value_args: Example inputs, by name or by position. Arguments with a default may be left
            out; a default of None, a bool or a string becomes part of the graph.

    Returns:
        A module with the signature of the model, its parameters and its buffers.

    Raises:
        UnsetValueException: An argument has neither a value nor a default.
        TypeError: A name is no argument of the model.

    Example:
        >>> def halve_if_large(x):
        ...     return x / 2 if x.max() > 1 else x
        >>> traced = value_trace(halve_if_large, value_args={"x": torch.tensor([2., 4.])})
        >>> traced(torch.tensor([6., 8.]))
        tensor([3., 4.])
        >>> [question for _, question, _, _ in traced.meta["specialized"]]
        ['bool']
    """
    return _value(ValueTracer(), root, concrete_args, value_args)


def brevitas_value_trace(
    root: Root, concrete_args: Arguments = None, value_args: Arguments = None
) -> GraphModule:
    """Trace a model along example inputs, each quantized layer as one node.

    Args:
        root: A model or a function; it is run once.
        concrete_args: Arguments that become part of the graph; see `value_trace`.
        value_args: Example inputs; see `value_trace`.

    Returns:
        A module with the signature of the model, its parameters and its buffers.

    Raises:
        UnsetValueException: An argument has neither a value nor a default.
        TypeError: A name is no argument of the model.

    Example:
        >>> traced = brevitas_value_trace(lambda x: x.view(len(x), -1), value_args=(torch.ones(2),))
        >>> traced(torch.ones(2, 3, 4)).shape
        torch.Size([2, 12])
    """
    return _value(BrevitasValueTracer(), root, concrete_args, value_args)


def _symbolic(tracer: Tracer, root: Root, concrete_args: Any) -> GraphModule:
    def trace() -> Graph:
        with patched_functions(record_always=always_recorder(tracer)):
            graph = tracer.trace(root, concrete_args)
        # Unpickled, a traced model is read from its code.
        graph._tracer_cls = CodeTracer
        for node in graph.nodes:
            # Of annotations that were never evaluated, the code could not import the names.
            node.type = None if isinstance(node.type, str) else node.type
        mark_fresh(graph, tracer.root)
        prefer_out_of_place(graph)
        return graph

    return _graph_module(tracer, root, trace, True)


def _value(
    tracer: ValueTracer, root: Root, concrete_args: Arguments, value_args: Arguments
) -> GraphModule:
    traced = _graph_module(tracer, root, lambda: tracer.trace(root, concrete_args, value_args))
    traced.meta["specialized"] = tuple(tracer.specialized)
    return traced


def _graph_module(
    tracer: Tracer, root: Root, trace: Callable[[], Graph], is_symbolic: bool = False
) -> GraphModule:
    is_module = isinstance(root, torch.nn.Module)
    if not is_module and getattr(root, "__code__", None) is None:
        raise TypeError(
            f"root={root!r}: cannot be traced. Expected a torch.nn.Module or a Python function."
        )
    before = set(vars(root))
    tracer.tensor_attrs = {}
    try:
        graph = trace()
        name = type(root).__name__ if is_module else root.__name__
        traced = GraphModule(tracer.root, graph, name)
    except UnsetValueException:
        raise
    except Exception as error:
        explain(error, tracer, _SYMBOLIC_REMEDY if is_symbolic else "")
        raise
    finally:
        # torch.fx keeps constants of the graph as attributes of the model.
        for added in (set(vars(root)) - before) & set(tracer.tensor_attrs.values()):
            delattr(root, added)
    _keep_persistence(tracer.root, traced)
    return traced


def _keep_persistence(root: torch.nn.Module, traced: GraphModule) -> None:
    """Keep out of the state dict what the state dict of the model does not hold.

    torch.fx copies every tensor that is no parameter as a persistent buffer.
    """
    persistent = set(root.state_dict(keep_vars=True))
    for path, buffer in list(traced.named_buffers(remove_duplicate=False)):
        owner_path, _, name = path.rpartition(".")
        owner = traced.get_submodule(owner_path)
        is_made_by_fx = owner is traced or type(owner) is torch.nn.Module
        if is_made_by_fx and path not in persistent:
            owner.register_buffer(name, buffer, persistent=False)
