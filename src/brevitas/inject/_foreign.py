"""Reads `this` and `value` made by the package `dependencies`, without importing it.

Layer: inject (L2).
"""

from __future__ import annotations

from typing import Any

from brevitas.inject._errors import DependencyError
from brevitas.inject._this import ATTRIBUTE, ITEM, This
from brevitas.inject._value import value

_PACKAGES = ("dependencies", "_dependencies")
_PARENT = "__parent__"


def _is_from_package(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in _PACKAGES


def is_foreign_injector(part: object) -> bool:
    """Return whether `part` is an injector class of the package, which is passed on as it is."""
    return isinstance(part, type) and _is_from_package(type(part))


def to_native(part: object) -> object:
    """Return our `this` or `value` for one of the package, and anything else unchanged.

    Args:
        part: Whatever an injector declares or a `value` function returns.

    Raises:
        DependencyError: `part` refers in a way that this injector does not know.
    """
    cls = type(part)
    if not isinstance(cls.__module__, str) or not _is_from_package(cls):
        return part
    state: dict[str, Any] = getattr(part, "__dict__", {})
    if cls.__name__ == "Value":
        return value(state["__function__"])
    if cls.__name__ == "This":
        return _to_native_this(state["__expression__"])
    return part


def _to_native_this(expression: tuple[tuple[str, object], ...]) -> This:
    levels = 0
    while levels < len(expression) and expression[levels] == (ATTRIBUTE, _PARENT):
        levels += 1
    path = expression[levels:]
    if any(kind not in (ATTRIBUTE, ITEM) or step == _PARENT for kind, step in path):
        raise DependencyError(f"'this' of the package dependencies: {expression!r} is not a path.")
    return This(levels, tuple(path))
