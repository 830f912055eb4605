"""Graphs of models: tracing with and without example inputs, on top of torch.fx.

`symbolic_trace` runs a model on stand-ins without values; `value_trace` runs it on example inputs,
and so follows branches, loops and unpacking. `brevitas_symbolic_trace` and `brevitas_value_trace`
do the same and keep each quantized layer as one node. `Graph`, `GraphModule`, `Node`, `Proxy` and
`Tracer` are those of torch.fx, under the names that transformations import from here.
Layer: fx (L2).
"""

from __future__ import annotations

from torch.fx import Graph, GraphModule, Node, Proxy, Tracer
from torch.fx._compatibility import compatibility
from torch.fx._symbolic_trace import HAS_VARSTUFF, PH
from torch.fx.graph import magic_methods, reflectable_magic_methods
from torch.fx.immutable_collections import immutable_dict, immutable_list
from torch.fx.node import Target, base_types, map_aggregate, map_arg
from torch.fx.proxy import ParameterProxy, Scope, ScopeContextManager

from brevitas.fx.brevitas_tracer import (
    brevitas_symbolic_trace,
    brevitas_value_trace,
    symbolic_trace,
    value_trace,
)

__all__ = [
    "HAS_VARSTUFF",
    "PH",
    "Graph",
    "GraphModule",
    "Node",
    "ParameterProxy",
    "Proxy",
    "Scope",
    "ScopeContextManager",
    "Target",
    "Tracer",
    "base_types",
    "brevitas_symbolic_trace",
    "brevitas_value_trace",
    "compatibility",
    "immutable_dict",
    "immutable_list",
    "magic_methods",
    "map_aggregate",
    "map_arg",
    "reflectable_magic_methods",
    "symbolic_trace",
    "value_trace",
]
