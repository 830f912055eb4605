"""`this`: a reference to another name of the same or of an outer injector. Layer: inject (L2)."""

from __future__ import annotations

from typing import Any

from brevitas.inject._errors import DependencyError

ATTRIBUTE, ITEM = ".", "[]"
# Attributes of classes that are worth a reference; every other dunder name is a protocol probe.
_REFERABLE_DUNDERS = frozenset({"__name__", "__qualname__"})


class This:
    """A path to follow from an injector: `this.a.b`, `this.a["key"]`, `(this << 1).a`.

    `<<` climbs to the injector in whose class body the current one is declared. A reference is
    immutable; each further attribute or item gives a new one.

    Example:
        >>> this.stats["max"].shape
        this.stats['max'].shape
        >>> (this << 1).bit_width
        (this << 1).bit_width
    """

    __slots__ = ("__levels__", "__path__")
    __levels__: int
    __path__: tuple[tuple[str, Any], ...]

    # `__getitem__` alone would make Python iterate without end.
    __iter__ = None

    def __init__(self, levels: int = 0, path: tuple[tuple[str, Any], ...] = ()) -> None:
        object.__setattr__(self, "__levels__", levels)
        object.__setattr__(self, "__path__", path)

    def __getattr__(self, name: str) -> This:
        if name.startswith("__") and name.endswith("__") and name not in _REFERABLE_DUNDERS:
            raise AttributeError(f"'this' can not refer to {name!r}.")
        return This(self.__levels__, (*self.__path__, (ATTRIBUTE, name)))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"this.{name}: references are immutable.")

    def __getitem__(self, key: Any) -> This:
        if not self.__path__:
            raise DependencyError(f"this[{key!r}]: name an attribute first, as in this.x[{key!r}].")
        return This(self.__levels__, (*self.__path__, (ITEM, key)))

    def __lshift__(self, levels: int) -> This:
        if not isinstance(levels, int) or isinstance(levels, bool) or levels < 1:
            raise ValueError(f"this << {levels!r}: expected an int >= 1, the levels to climb.")
        if self.__path__:
            raise DependencyError(f"{self!r} << {levels}: climb first, as in (this << 1).x.")
        return This(self.__levels__ + levels)

    def __reduce__(self) -> tuple[type[This], tuple[Any, ...]]:
        return This, (self.__levels__, self.__path__)

    def __repr__(self) -> str:
        root = f"(this << {self.__levels__})" if self.__levels__ else "this"
        steps = (f".{step}" if kind == ATTRIBUTE else f"[{step!r}]" for kind, step in self.__path__)
        return root + "".join(steps)


this = This()
