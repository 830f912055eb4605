"""Parts of a quantizer that hold no tensors: what they are now, as a key. Layer: core (L3).

A compiled region bakes such parts in (a restriction, a clamp, a rounding). Their key names their
classes and constants, so that quantizers with equal keys share kernels, and so that a part that
was replaced, hooked or given another constant gets kernels of its own, or none.
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
_CONSTANTS = (bool, int, float, str, torch.dtype, Enum, type(None))


_NUMBERS: dict[Hashable, int] = {}


class Watched:
    """Modules as they were when they were looked at.

    Args:
        baked: modules that a region bakes in, with everything below them.
        read: modules around them that are read or called as they are; only their class, hooks
            and children count.

    Attributes:
        key: classes and constants of the baked modules; None where one of them is not the
            library's own or holds a tensor, or where any module is hooked.

    Example:
        >>> from brevitas.core.scaling import IntScaling
        >>> first, second = (Watched([IntScaling(False, signed=True)]) for _ in range(2))
        >>> first.key == second.key
        True
    """

    def __init__(self, baked: Iterable[nn.Module], read: Iterable[nn.Module] = ()) -> None:
        inside = [_Entry(module) for root in baked for module in _walk(root)]
        around = [_Entry(module, with_constants=False) for module in read]
        self._entries = [*inside, *around]
        keys = [entry.key() for entry in inside]
        usable = None not in keys and all(entry.plain for entry in around)
        self.key: Hashable = tuple(keys) if usable else None
        #: A number that stands for the key and is faster to compare.
        self.number = _NUMBERS.setdefault(self.key, len(_NUMBERS)) if usable else None

    def is_current(self) -> bool:
        """True while no module was replaced, hooked or changed."""
        for entry in self._entries:
            if not entry.is_current():
                return False
        return True


def _walk(module: nn.Module) -> Iterator[nn.Module]:
    yield module
    for child in module._modules.values():
        if child is not None:
            yield from _walk(child)


class _Entry:
    """One module: its class, children, constants, and whether it is plain."""

    __slots__ = ("children", "constants", "kind", "module", "names", "plain")

    def __init__(self, module: nn.Module, with_constants: bool = True) -> None:
        self.module = module
        self.kind = type(module)
        self.plain = is_plain(module)
        self.children = tuple(module._modules.values())
        self.constants = {
            name: value
            for name, value in module.__dict__.items()
            if with_constants and name not in _STATE_OF_EVERY_MODULE
        }
        #: How many attributes it has; None where attributes do not count.
        self.names = self._count() if with_constants else None

    def _count(self) -> int:
        state = self.module.__dict__
        return len(state) + len(state["_parameters"]) + len(state["_buffers"])

    def key(self) -> Hashable:
        module = self.module
        is_ours = self.kind.__module__.startswith("brevitas.")
        tensors = (*module._parameters.values(), *module._buffers.values())
        holds_tensors = any(tensor is not None for tensor in tensors)
        if not (is_ours and self.plain) or holds_tensors:
            return None
        if not all(isinstance(value, _CONSTANTS) for value in self.constants.values()):
            return None
        children = tuple((name, type(child)) for name, child in module._modules.items())
        return self.kind, tuple(sorted(self.constants.items())), children

    def is_current(self) -> bool:
        # Asked at every call of a quantizer: loops are written out.
        module = self.module
        state = module.__dict__
        if type(module) is not self.kind or is_plain(module) is not self.plain:
            return False
        if tuple(state["_modules"].values()) != self.children:
            return False
        if self.names is None:
            return True
        if len(state) + len(state["_parameters"]) + len(state["_buffers"]) != self.names:
            return False
        for name, value in self.constants.items():
            now = state.get(name)
            if now is not value and not _same(now, value):
                return False
        return True


def _same(now: Any, before: Any) -> bool:
    return now is before or (isinstance(now, _CONSTANTS) and now == before)
