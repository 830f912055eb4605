"""Parts of a quantizer as they were when they were looked at. Layer: core (L3).

A fused operation and a compiled region stand for parts (a restriction, a clamp, a rounding). Their
key names their classes and constants, so that quantizers with equal keys share kernels, and so
that a part that was replaced, hooked or given another constant gets kernels of its own, or none.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from enum import Enum
from typing import Any

import torch
from torch import nn

from brevitas.core.quant._plan import is_plain

__all__ = ["Watched"]

_STATE_OF_EVERY_MODULE = frozenset(nn.Module().__dict__)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_TENSORS = ("_parameters", "_buffers")
_CONSTANTS = (bool, int, float, str, torch.dtype, Enum, type(None))


_NUMBERS: dict[Hashable, int] = {}


class Watched:
    """Modules as they were when they were looked at.

    To ask whether they still are costs a few comparisons of tuples: at each call, the memory that
    changes would show in (dictionaries of hooks, children and attributes) is known already.

    Args:
        baked: modules whose class, constants and children count, with everything below them.
        read: modules around them that are read or called as they are; only their class, hooks
            and children count.

    Attributes:
        key: classes and constants of the baked modules; None where one of them is not the
            library's own or holds a tensor, or where any module is hooked.

    Example:
        >>> from brevitas.core.scaling import IntScaling
        >>> first, second = (Watched([IntScaling(False, signed=True)]) for _ in range(2))
        >>> first.key == second.key, first.is_current()
        (True, True)
    """

    def __init__(self, baked: Iterable[nn.Module], read: Iterable[nn.Module] = ()) -> None:
        inside = [module for root in baked for module in _walk(root)]
        self._modules = (*inside, *read)
        is_plain_now = all(is_plain(module) for module in self._modules)
        keys = tuple(_key(module) for module in inside)
        self.key: Hashable = keys if is_plain_now and None not in keys else None
        #: A number that stands for the key and is faster to compare.
        self.number = None if self.key is None else _NUMBERS.setdefault(self.key, len(_NUMBERS))
        states = [module.__dict__ for module in self._modules]
        self._classes = tuple(map(type, self._modules))
        self._hooks = tuple(state[name] for state in states for name in _HOOKS)
        self._has_hooks = any(self._hooks)
        self._children = tuple(state["_modules"] for state in states)
        self._children_then = tuple(map(dict, self._children))
        tensors = (module.__dict__[name] for module in inside for name in _TENSORS)
        self._counted: tuple[dict[str, Any], ...] = (*states, *tensors)
        self._counts = self._count()
        constants = [(m.__dict__, name) for m in inside for name in _names_of_constants(m)]
        self._constants = [(state, name, state[name]) for state, name in constants]

    def _count(self) -> tuple[int, ...]:
        # How many attributes there are: one that is added may hide a method.
        return tuple(map(len, self._counted))

    def is_current(self) -> bool:
        """True while no module was replaced, hooked or changed."""
        if any(self._hooks) is not self._has_hooks or self._children != self._children_then:
            return False
        if tuple(map(type, self._modules)) != self._classes or self._count() != self._counts:
            return False
        return all(_same(state.get(name), value) for state, name, value in self._constants)


def _walk(module: nn.Module) -> Iterator[nn.Module]:
    yield module
    for child in module._modules.values():
        if child is not None:
            yield from _walk(child)


def _names_of_constants(module: nn.Module) -> list[str]:
    return [name for name in module.__dict__ if name not in _STATE_OF_EVERY_MODULE]


def _key(module: nn.Module) -> Hashable:
    """Class, constants and classes of children; None where they do not say what it computes."""
    kind = type(module)
    tensors = (*module._parameters.values(), *module._buffers.values())
    if not kind.__module__.startswith("brevitas.") or any(t is not None for t in tensors):
        return None
    constants = {name: module.__dict__[name] for name in _names_of_constants(module)}
    if not all(isinstance(value, _CONSTANTS) for value in constants.values()):
        return None
    children = tuple((name, type(child)) for name, child in module._modules.items())
    return kind, tuple(sorted(constants.items())), children


def _same(now: Any, before: Any) -> bool:
    return now is before or (isinstance(now, _CONSTANTS) and now == before)
