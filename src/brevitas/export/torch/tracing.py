"""From a model to a graph of float operators between nodes that quantize. Layer: export (L8)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx.experimental._config as tracing_config
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map

from brevitas.export.common.examples import copied, run_example
from brevitas.export.common.failures import expect_no_state, tracing_failed
from brevitas.export.common.inputs import plain_signature, plain_values
from brevitas.export.common.session import ExportSession
from brevitas.export.manager import BaseManager, export_mode
from brevitas.export.onnx.handler import joins
from brevitas.export.torch.recording import RECORDING, SIZES
from brevitas.export.torch.sizes import Limits, fixed_symbols, limits_of

__all__ = ["Traced", "trace_model", "trace_open"]

# Nodes by which torch.export states what it assumed; nothing of a model depends on them.
_ASSERTIONS = (
    torch.ops.aten._assert_tensor_metadata.default,
    torch.ops.aten._assert_scalar.default,
    torch.ops.aten.sym_constrain_range_for_size.default,
)


@dataclass(frozen=True, eq=False)
class Traced:
    """A traced model.

    Args:
        graph: operators without side effects, from flat inputs to outputs.
        limits: sizes that each input may have, None for one that is no tensor.
    """

    graph: fx.GraphModule
    limits: Sequence[Limits | None]


class _Positional(nn.Module):
    """Takes every input by position, so that one way to declare open sizes fits any signature."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any) -> Any:
        return self.module(*args)


def trace_model(
    manager: type[BaseManager], module: nn.Module, inputs: tuple[Any, ...], session: ExportSession
) -> Traced:
    """Run a model on its example with real values, and trace it.

    Args:
        manager: the export target.
        module: the model.
        inputs: example inputs.
        session: the export under way.

    Returns:
        The traced model, from plain values to plain values.

    Raises:
        ExportError: where the format cannot represent the model.
    """
    values = plain_values(inputs)
    with plain_signature(module, inputs), export_mode(manager, module, joins(session)):
        run_example(module, values, session.restart)
        session.restart()
        return trace_open(module, values)


def trace_open(module: nn.Module, values: tuple[Any, ...]) -> Traced:
    """Trace a model for inputs of any size, as far as it takes any.

    Args:
        module: the model, in export mode.
        values: example inputs.

    Returns:
        The graph, and for which sizes it holds.

    Raises:
        ExportError: where tracing fails, or the model keeps state.
    """
    try:
        with _with_open_ones(), warnings.catch_warnings():
            # 2026-11: PyTorch says so of its own programs when it copies them.
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            inputs = copied(values)
            sizes = tree_map(_open_sizes, inputs)
            wrapped = _Positional(module)
            program = torch.export.export(wrapped, inputs, dynamic_shapes=(sizes,), strict=False)
            # Without operators that change a tensor in place: quantized copies would not follow.
            program = program.run_decompositions({})
    except Exception as error:
        raise tracing_failed(error) from error
    expect_no_state(program, type(module).__name__, prefix="module.")
    graph = _cleaned(program.module(check_guards=False))
    stand_ins = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
    fixed = fixed_symbols(graph.graph, {*RECORDING, *SIZES})
    limits = [
        limits_of(example, traced, fixed, program.range_constraints)
        if isinstance(example, Tensor)
        else None
        for example, traced in zip(tree_leaves(values), stand_ins, strict=True)
    ]
    return Traced(graph, limits)


def _with_open_ones() -> AbstractContextManager[None]:
    """Let a size that is 1 in the example be any other, too."""
    patch: Any = tracing_config.patch  # pyright: ignore[reportAttributeAccessIssue]
    return patch(backed_size_oblivious=True)


def _open_sizes(value: Any) -> Any:
    """Leave the sizes of a tensor open; torch.export closes those that the model fixes."""
    if not isinstance(value, Tensor):
        return None
    return dict.fromkeys(range(value.dim()), torch.export.Dim.AUTO)


def _cleaned(graph: fx.GraphModule) -> fx.GraphModule:
    """Take out what only states an assumption."""
    for node in list(graph.graph.nodes):
        if node.target in _ASSERTIONS:
            graph.graph.erase_node(node)
        elif "shape" in node.kwargs:
            # That of a symbolic node, which reads sizes that nothing else needs.
            node.kwargs = {**node.kwargs, "shape": ()}
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph
