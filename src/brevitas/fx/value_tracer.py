"""Tracing along example inputs: the graph of what a model does with them.

Layer: fx (L2).
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node, Proxy, Tracer
from torch.fx._symbolic_trace import HAS_VARSTUFF, PH
from torch.fx.graph import magic_methods, reflectable_magic_methods
from torch.fx.node import Target, base_types
from torch.fx.proxy import TraceError

from brevitas.fx._arguments import (
    UnsetValueException,
    assert_specialized,
    bind_values,
    default_of,
    is_constant,
)
from brevitas.fx._location import FRAME_FILES, user_line
from brevitas.fx._patches import (
    FNS_TO_PATCH,
    concrete_execution,
    patch_isinstance,
    patched_attribute,
    patched_constructors,
    patched_functions,
    record_if_traced,
)
from brevitas.fx._rebuild import INPLACE_OPERATORS, CodeTracer
from brevitas.fx._simplify import FRESH, StorageUses, drop_unused_queries, prefer_out_of_place
from brevitas.fx._value_proxy import (
    MAPPING_VIEWS,
    ValueAttribute,
    ValueProxy,
    concrete,
    is_instance,
    is_mapping,
    mapping_view,
    unpacked,
)
from brevitas.ops.fake_quant import fake_quant
from brevitas.ops.minifloat import minifloat_quant
from brevitas.ops.sign_quant import sign_quant
from brevitas.quant_tensor import QuantTensor

__all__ = [
    "FRAME_FILES",
    "HAS_VARSTUFF",
    "PH",
    "Target",
    "UnsetValueException",
    "ValueAttribute",
    "ValueProxy",
    "ValueTracer",
    "base_types",
    "extended_base_types",
    "magic_methods",
    "reflectable_magic_methods",
]

extended_base_types = (*base_types, QuantTensor)

_UNSET: Any = object()
_EMPTY = torch.nn.Module()


class ValueTracer(Tracer):
    """Records a model while it runs on example inputs.

    Every step is run when it is recorded, so that branches on values, loops over sizes, unpacking
    and conversions to Python numbers have an answer. The graph is the path that the example took;
    for other inputs it gives what the model gives, as long as they take the same path. Tracing is
    one call of the model, with whatever the call does to buffers and to the random state.

    Python numbers that a model computes from sizes by operators stay part of the graph; those that
    it asks for (`int(n)`, `len(x)`, `range(n)`) become constants, each noted in `specialized`.

    Args:
        autowrap_modules: Python modules whose functions become nodes of their own.
        **kwargs: Further arguments of `torch.fx.Tracer`.

    Attributes:
        specialized: What the graph takes for granted, as (line, question, node, answer).

    Example:
        >>> tracer = ValueTracer()
        >>> graph = tracer.trace(lambda x: x + 1 if x.sum() > 0 else x, value_args=(torch.ones(2),))
        >>> [str(node) for node in graph.nodes]
        ['x', 'add', 'output']
    """

    proxy_buffer_attributes = True

    def __init__(
        self,
        autowrap_modules: tuple[ModuleType, ...] = (math,),
        **kwargs: Any,
    ) -> None:
        quantizers = (fake_quant, minifloat_quant, sign_quant)
        functions = (*kwargs.pop("autowrap_functions", ()), *FNS_TO_PATCH, *quantizers)
        Tracer.__init__(self, autowrap_modules, autowrap_functions=functions, **kwargs)  # pyright: ignore[reportArgumentType]
        self.specialized: list[tuple[str, str, str, Any]] = []
        self._value_args: Any = None
        self._is_running = False
        self._stack = ExitStack()
        self._storages = StorageUses(_EMPTY)
        self._tensor_nodes: set[Node] = set()
        self._assigned: dict[tuple[torch.nn.Module, str], Any] = {}

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function on values in the middle of a trace, and record nothing.

        Args:
            function: What to call.
            *args: Its arguments, none of them a proxy.
            **kwargs: Its keyword arguments.

        Returns:
            What the function returns.
        """
        previous, self._is_running = self._is_running, True
        try:
            with concrete_execution():
                return function(*args, **kwargs)
        finally:
            self._is_running = previous

    def specialize(
        self, proxy: Proxy, question: str, function: Callable[..., Any], *args: Any
    ) -> Any:
        """Answer a question by the value of a proxy, and note that the trace goes by it.

        Args:
            proxy: The proxy that is asked.
            question: What is asked: `bool`, `int`, `len`, ...
            function: Gives the answer from the value.
            *args: Further arguments of the function.

        Returns:
            The answer.
        """
        answer = self.run(function, concrete(proxy), *args)
        self.specialized.append((user_line(), question, proxy.node.name, answer))
        return answer

    def to_bool(self, obj: Proxy) -> bool:
        """Answer a branch by the value of a proxy."""
        return self.specialize(obj, "bool", bool)

    def iter(self, obj: Proxy) -> Iterator[Any]:
        """Unpack a proxy as its value unpacks: items of a sequence, keys, fields of a record.

        Raises:
            TraceError: The value is neither a tensor, a sequence, a mapping nor a record.
        """
        value = concrete(obj)
        if isinstance(value, QuantTensor):
            return iter([getattr(obj, str(name)) for name in type(value)._fields])
        if isinstance(value, Mapping):
            return iter(list(value))
        if isinstance(value, (Tensor, tuple, list, range, str)):
            length = self.specialize(obj, "len", len)
            return iter([operator.getitem(obj, i) for i in range(length)])  # pyright: ignore[reportCallIssue, reportArgumentType]
        raise TraceError(
            f"{obj.node.name}: a value of type {type(value).__name__} cannot be unpacked under "
            "trace. Accepted: tensors, tuples, lists and dicts."
        )

    def keys(self, obj: Proxy) -> Any:
        """Return the keys of a mapping, which a trace takes for granted."""
        return self.create_proxy("call_method", "keys", (obj,), {})

    def proxy(self, node: Node, value: Any = None) -> Proxy:
        """Wrap a node and its value."""
        return ValueProxy(node, value, self)

    def create_arg(self, a: Any) -> Any:
        """Turn an argument into what a node holds; see `torch.fx.Tracer.create_arg`."""
        if isinstance(a, Proxy):
            return a.node
        return Tracer.create_arg(self, a)

    def unpack_arg(self, a: Any) -> Any:
        """Replace every proxy in an argument, at any depth, by its value."""
        return unpacked(a)

    def create_proxy(
        self,
        kind: str,
        target: Target,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
        type_expr: Any | None = None,
        proxy_factory_fn: Callable[[Node], Proxy] | None = None,
        value: Any = _UNSET,
    ) -> Any:
        """Record a step and run it.

        Args:
            kind: The kind of node: `call_function`, `call_method`, `call_module`, ...
            target: What it calls.
            args: Its arguments, proxies among them.
            kwargs: Its keyword arguments.
            name: The name of the node; None: derived from the target.
            type_expr: The annotation of the node.
            proxy_factory_fn: Makes the proxy from the node, in place of `proxy`.
            value: The result, if it is known already.

        Returns:
            The proxy of the result; None where the result is None.
        """
        if kind == "call_method" and str(target) in MAPPING_VIEWS and is_mapping(args[0]):
            return mapping_view(args[0], str(target))
        node_args = (self.create_arg(args), self.create_arg(kwargs))
        fresh = False
        if value is _UNSET:
            values, keywords = self.unpack_arg(args), self.unpack_arg(kwargs)
            fresh = target in INPLACE_OPERATORS and self._storages.is_fresh(args[0], *values)
            value = self._execute(kind, target, values, keywords)
            if target in INPLACE_OPERATORS and value is not values[0]:
                target = INPLACE_OPERATORS[target]  # pyright: ignore[reportArgumentType]
                fresh = False
        node = self.create_node(kind, target, *node_args, name, type_expr)
        if fresh:
            node.meta[FRESH] = True
        self._note(node, value)
        if value is None:
            return None
        return proxy_factory_fn(node) if proxy_factory_fn else self.proxy(node, value)

    def call_module(
        self,
        m: torch.nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Record a leaf as one node, and go through any other module."""
        if self._is_running:
            return forward(*args, **kwargs)
        patch_isinstance(self._stack, getattr(type(m).forward, "__globals__", {}), is_instance)
        try:
            return Tracer.call_module(self, m, forward, args, kwargs)
        except NameError as error:
            if "not installed as a submodule" in str(error):
                raise NameError(
                    f"{type(m).__name__}: called in the model, but not registered in it. "
                    "Keep modules as attributes or in a ModuleList or ModuleDict."
                ) from error
            raise

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Record the use of a parameter or buffer outside of its leaf module."""
        if self._is_running:
            return attr_val
        return Tracer.getattr(self, attr, attr_val, parameter_proxy_cache)

    def create_args_for_root(
        self,
        root_fn: Callable[..., Any],
        is_module: bool,
        concrete_args: Any = None,
        value_args: Any = None,
    ) -> tuple[Any, list[Any]]:
        """Make a placeholder for each argument of the root, and give it its value.

        Returns:
            A function without arguments that calls the root, and the empty list.
        """
        given = self._value_args if value_args is None else value_args
        function = inspect.unwrap(root_fn)
        bound = bind_values(function, int(is_module), concrete_args, given)
        positional: list[Any] = [self.root] if is_module else []
        named: dict[str, Any] = {}
        for index, (parameter, value, fixed) in enumerate(bound):
            stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
            target = stars.get(parameter.kind, "") + parameter.name
            proxy = self._placeholder(target, default_of(bound, index), value, fixed)
            if parameter.kind is parameter.VAR_POSITIONAL:
                positional.extend(proxy)
            elif parameter.kind is parameter.VAR_KEYWORD:
                named.update({name: proxy[name] for name in value})
            elif parameter.kind is parameter.KEYWORD_ONLY:
                named[parameter.name] = proxy
            else:
                positional.append(proxy)

        def call_root():  # no annotation: it would become that of the traced model
            return root_fn(*positional, **named)

        return call_root, []

    def trace(
        self,
        root: torch.nn.Module | Callable[..., Any],
        concrete_args: Any = None,
        value_args: Any = None,
    ) -> Graph:
        """Run a model once and return the graph of what it did.

        Args:
            root: A model or a function.
            concrete_args: Arguments that become part of the graph; see `value_trace`.
            value_args: Example inputs; see `value_trace`.

        Returns:
            The graph; `torch.fx.GraphModule(tracer.root, graph)` runs it.

        Raises:
            UnsetValueException: An argument has neither a value nor a default.
        """
        self._value_args = value_args
        self.specialized = []
        self._tensor_nodes = set()
        self._storages = StorageUses(root if isinstance(root, torch.nn.Module) else _EMPTY)
        function = type(root).forward if isinstance(root, torch.nn.Module) else root
        set_attribute = torch.nn.Module.__setattr__

        def assign(module: torch.nn.Module, name: str, value: Any) -> None:
            self._assign(set_attribute, module, name, value)

        with ExitStack() as self._stack:
            self._stack.callback(self._settle, set_attribute)
            self._stack.enter_context(patched_functions(self._record, self._record_constant))
            self._stack.enter_context(patched_constructors(QuantTensor))
            self._stack.enter_context(patched_attribute(torch.nn.Module, "__setattr__", assign))
            patch_isinstance(self._stack, getattr(function, "__globals__", {}), is_instance)
            graph = Tracer.trace(self, root, concrete_args)
        # Unpickled, a traced model is read from its code, without values.
        graph._tracer_cls = CodeTracer
        prefer_out_of_place(graph)
        drop_unused_queries(graph, self._tensor_nodes)
        return graph

    def _execute(
        self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if kind == "get_attr":
            return self.run(operator.attrgetter(target), self.root)
        if kind == "call_method":
            return self.run(operator.methodcaller(target, *args[1:], **kwargs), args[0])
        if kind == "call_module":
            target = self.root.get_submodule(target)
        return self.run(target, *args, **kwargs)

    def _placeholder(self, target: str, default: tuple[Any, ...], value: Any, fixed: bool) -> Any:
        node = self.create_node("placeholder", target, self.create_arg(default), {})
        self._note(node, value)
        if not fixed:
            return self.proxy(node, value)
        if is_constant(value):
            check = self.create_node("call_function", assert_specialized, (node, value, target), {})
            check.meta["is_wrapped"] = True
        return value

    def _note(self, node: Node, value: Any) -> None:
        self._storages.add(value)
        if isinstance(value, (Tensor, torch.Size)):
            self._tensor_nodes.add(node)

    def _record(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._is_running:
            return function(*args, **kwargs)
        return record_if_traced(function, args, kwargs)

    def _record_constant(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._is_running:
            return function(*args, **kwargs)
        try:
            self.create_arg((args, kwargs))
        except NotImplementedError:
            return function(*args, **kwargs)  # from an array, say: a constant of the graph
        return self.create_proxy("call_function", function, args, kwargs)

    def _assign(self, set_attribute: Any, module: torch.nn.Module, name: str, value: Any) -> None:
        """Assign to an attribute of a module under trace; a buffer is written in place."""
        if self._is_running or not isinstance(value, Proxy):
            set_attribute(module, name, value)
        elif name not in module._buffers:
            self._assigned[(module, name)] = value
            set_attribute(module, name, value)
        elif module._buffers[name] is not concrete(value):
            getattr(module, name).copy_(value)

    def _settle(self, set_attribute: Any) -> None:
        """Replace the proxies that a model keeps in its attributes by their values."""
        for (module, name), proxy in self._assigned.items():
            if vars(module).get(name) is proxy:
                set_attribute(module, name, concrete(proxy))
        self._assigned = {}
