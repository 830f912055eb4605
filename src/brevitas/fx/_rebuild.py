"""Reading the code of a traced model back into a graph, which unpickling one does.

Layer: fx (L2).
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Graph, Node, Proxy, Tracer

from brevitas.fx._patches import always_recorder, patched_constructors, patched_functions
from brevitas.quant_tensor import QuantTensor

__all__ = ["INPLACE_OPERATORS", "CodeTracer", "RecordedOperators", "RecordingTracer"]

# In-place operator -> the operator that makes a new value.
INPLACE_OPERATORS: dict[Any, Callable[..., Any]] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    operator.ifloordiv: operator.floordiv,
    operator.imod: operator.mod,
    operator.ipow: operator.pow,
    operator.imatmul: operator.matmul,
    operator.iand: operator.and_,
    operator.ior: operator.or_,
    operator.ixor: operator.xor,
    operator.ilshift: operator.lshift,
    operator.irshift: operator.rshift,
}


class RecordedOperators(Proxy):
    """A proxy that also records what changes a value in place, copies it or rounds it."""

    def __setitem__(self, key: Any, item: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, item), {})

    def __delitem__(self, key: Any) -> None:
        self.tracer.create_proxy("call_function", operator.delitem, (self, key), {})

    def __round__(self, digits: int | None = None) -> Any:
        arguments = (self,) if digits is None else (self, digits)
        return self.tracer.create_proxy("call_function", round, arguments, {})

    def __copy__(self) -> Any:
        return self.tracer.create_proxy("call_function", copy.copy, (self,), {})

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self.tracer.create_proxy("call_function", copy.deepcopy, (self,), {})


def _record_inplace(function: Callable[..., Any]) -> None:
    def inplace(self: Proxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    inplace.__name__ = f"__{function.__name__}__"
    setattr(RecordedOperators, inplace.__name__, inplace)


for _function in INPLACE_OPERATORS:
    _record_inplace(_function)


class RecordingTracer(Tracer):
    """Symbolic tracer that records operators in place as they are.

    torch.fx makes `x + 1` of `x += 1`, which another name of the same tensor does not see.
    """

    def proxy(self, node: Node) -> Proxy:
        """Wrap a node."""
        return RecordedOperators(node, self)


class CodeTracer(RecordingTracer):
    """Symbolic tracer for straight-line code, every call of which becomes a node again."""

    proxy_buffer_attributes = True

    def trace(self, root: torch.nn.Module | Callable[..., Any], concrete_args: Any = None) -> Graph:
        """Return the graph of the code; see `torch.fx.Tracer.trace`."""
        always = always_recorder(self)
        constructors = patched_constructors(QuantTensor)
        with patched_functions(record_constant=self._record, record_always=always), constructors:
            return Tracer.trace(self, root, concrete_args)

    def _record(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.create_proxy("call_function", function, args, kwargs)
