"""Stand-ins that record what is done with them and know the value that they stand for.

Layer: fx (L2).
"""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.fx import Node, Proxy

from brevitas.fx._rebuild import RecordedOperators
from brevitas.quant_tensor import QuantTensor

__all__ = [
    "MAPPING_VIEWS",
    "ValueAttribute",
    "ValueProxy",
    "concrete",
    "is_instance",
    "is_mapping",
    "mapping_view",
    "unpacked",
]


class ValueProxy(RecordedOperators):
    """A node of a graph under construction, together with its value for the example inputs.

    Operators, methods, attributes and functions of torch are recorded as nodes. Where Python needs
    a plain object (a branch, a loop, an index, a length, a dictionary key, a format) it gets the
    value, and the decision is noted by `tracer.specialize`.

    Args:
        node: The node that computes the value.
        value: The value itself.
        tracer: The `ValueTracer` that records.
    """

    tracer: Any  # a ValueTracer, whose module imports this one

    def __init__(self, node: Node, value: Any, tracer: Any = None) -> None:
        Proxy.__init__(self, node, tracer)
        self._concrete = value

    @property
    def value(self) -> Any:
        """The concrete value; for a QuantTensor, as on the QuantTensor, its `value` recorded."""
        if isinstance(self._concrete, QuantTensor):
            return self.__getattr__("value")
        return self._concrete

    @value.setter
    def value(self, value: Any) -> None:
        self._concrete = value

    # `isinstance(height, int)` holds in a model under trace as it does outside. Tensors are left
    # out: torch reads the memory of whatever passes for a tensor; see `is_instance`.
    @property
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride]
        is_tensor = isinstance(self._concrete, torch.Tensor)
        return type(self) if is_tensor else type(self._concrete)

    def __repr__(self) -> str:
        return f"Proxy({self.node.name})"

    def __getattr__(self, name: str) -> Any:
        # Only reached for what is no attribute of a proxy.
        if name == "_concrete":
            raise AttributeError(name)
        found = self.tracer.run(getattr, self._concrete, name)
        if callable(found) and not isinstance(found, torch.nn.Module):
            return ValueAttribute(self, name, found)
        return self.tracer.create_proxy("call_function", getattr, (self, name), {}, value=found)

    def __iter__(self) -> Iterator[Any]:
        return self.tracer.iter(self)

    def __bool__(self) -> bool:
        return self.tracer.to_bool(self)

    def __len__(self) -> int:
        return self.tracer.specialize(self, "len", len)

    def __int__(self) -> int:
        return self.tracer.specialize(self, "int", int)

    def __index__(self) -> int:
        return self.tracer.specialize(self, "index", operator.index)

    def __float__(self) -> float:
        return self.tracer.specialize(self, "float", float)

    def __complex__(self) -> complex:
        return self.tracer.specialize(self, "complex", complex)

    def __hash__(self) -> int:
        if isinstance(self._concrete, (torch.Tensor, QuantTensor)):
            return id(self)
        return self.tracer.specialize(self, "hash", hash)

    def __contains__(self, item: Any) -> bool:
        return self.tracer.specialize(self, "in", operator.contains, self.tracer.unpack_arg(item))

    def __str__(self) -> str:
        return self.__repr__() if isinstance(self._concrete, torch.Tensor) else format(self)

    def __format__(self, format_spec: str) -> str:
        return self.tracer.specialize(self, "format", format, format_spec)


class ValueAttribute(ValueProxy):
    """A method of a value. Called, it becomes one node; else it is looked up by `getattr`.

    Args:
        root: The value that has the method.
        attr: Its name.
        value: The bound method itself.
    """

    def __init__(self, root: Proxy, attr: str, value: Any) -> None:
        self.root = root
        self.attr = attr
        self.tracer = root.tracer
        self._concrete = value
        self._node: Node | None = None

    @property
    def node(self) -> Node:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The node of the lookup, made when it is first needed."""
        if self._node is None:
            arguments = (self.root, self.attr)
            found: Node = self.tracer.create_proxy("call_function", getattr, arguments, {}).node
            self._node = found
        return self._node

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.tracer.create_proxy("call_method", self.attr, (self.root, *args), kwargs)


def concrete(proxy: Any) -> Any:
    """Return the value that a proxy stands for.

    Args:
        proxy: A `ValueProxy`.

    Returns:
        The value, a QuantTensor too (whose proxy answers `value` as the QuantTensor does).
    """
    return proxy._concrete


def is_instance(instance: Any, kind: Any) -> bool:
    """Stand in for `isinstance` in a model under trace: a proxy counts as its value."""
    if builtins.isinstance(instance, kind):
        return True
    return type(instance) in _PROXIES and builtins.isinstance(concrete(instance), kind)


_PROXIES = (ValueProxy, ValueAttribute)


def unpacked(argument: Any) -> Any:
    """Replace every proxy in an argument, at any depth, by its value."""
    if isinstance(argument, Proxy):
        return concrete(argument)
    if isinstance(argument, slice):
        return slice(*map(unpacked, (argument.start, argument.stop, argument.step)))
    if isinstance(argument, QuantTensor):
        fields = argument._constructor_arguments()
        traced = {n: concrete(field) for n, field in fields.items() if isinstance(field, Proxy)}
        return argument.set(**traced) if traced else argument
    if isinstance(argument, tuple):
        items = tuple(map(unpacked, argument))
        make: Callable[..., Any] = getattr(type(argument), "_make", type(argument))
        return make(items)
    if isinstance(argument, list):
        return [unpacked(item) for item in argument]
    if isinstance(argument, dict):
        return {unpacked(key): unpacked(item) for key, item in argument.items()}
    return argument


def is_mapping(argument: Any) -> bool:
    """Whether an argument is the proxy of a dict."""
    return isinstance(argument, Proxy) and isinstance(concrete(argument), Mapping)


def mapping_view(proxy: Any, view: str) -> list[Any]:
    """Answer `keys`, `values` or `items` of a traced dict by the keys it has."""
    return [MAPPING_VIEWS[view](key, proxy) for key in concrete(proxy)]


MAPPING_VIEWS: dict[str, Callable[[Any, Any], Any]] = {
    "keys": lambda key, proxy: key,
    "values": lambda key, proxy: proxy[key],
    "items": lambda key, proxy: (key, proxy[key]),
}
