"""The injector: a class whose attributes are built when read, by argument name. Layer: inject (L2).

Reading an attribute opens a scope, in which each name is built at most once. A scope is thrown
away afterwards, so that nothing is ever written to a class, least of all after an error.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable, Mapping
from enum import Enum, auto
from types import GenericAlias
from typing import Any, NamedTuple, NoReturn

from brevitas.inject._arguments import Arguments, arguments_of_class
from brevitas.inject._errors import (
    DependencyError,
    QuantizerResolutionError,
    Step,
    circular,
    describe_chain,
    note_chain,
    unresolved,
)
from brevitas.inject._foreign import is_foreign_injector, to_native
from brevitas.inject._reads import current_reads, record_reads
from brevitas.inject._this import ATTRIBUTE, This
from brevitas.inject._value import value

_PLAIN_SUFFIX = "_class"
_RESERVED = frozenset({"let", "mro"})
_METADATA = frozenset(
    {
        "__annotate__",
        "__annotate_func__",
        "__annotations__",
        "__annotations_cache__",
        "__classcell__",
        "__classdictcell__",
        "__conditional_annotations__",
        "__doc__",
        "__firstlineno__",
        "__module__",
        "__qualname__",
        "__static_attributes__",
    }
)


class _Kind(Enum):
    PLAIN = auto()
    CLASS = auto()
    VALUE = auto()
    THIS = auto()
    NESTED = auto()


class Declaration(NamedTuple):
    """What an injector declares under one name: how to treat it, what it is, and who wrote it."""

    kind: _Kind
    part: Any
    owner: str


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _is_buildable(part: object) -> bool:
    return (
        isinstance(part, type)
        and not isinstance(part, (InjectorMeta, GenericAlias))
        and not issubclass(part, Enum)
        and not is_foreign_injector(part)
    )


def _declare(name: str, part: object, owner: str) -> Declaration:
    part = to_native(part)
    if isinstance(part, This):
        return Declaration(_Kind.THIS, part, owner)
    if isinstance(part, value):
        return Declaration(_Kind.VALUE, part, owner)
    if name.endswith(_PLAIN_SUFFIX):
        return Declaration(_Kind.PLAIN, part, owner)
    if isinstance(part, InjectorMeta):
        return Declaration(_Kind.NESTED, part, owner)
    if _is_buildable(part):
        return Declaration(_Kind.CLASS, part, owner)
    return Declaration(_Kind.PLAIN, part, owner)


class InjectorMeta(type):
    """Turns a class body into declarations, and reading an attribute into building it."""

    __declarations__: dict[str, Declaration]
    __parent__: InjectorMeta | None
    # How `let` and nesting made this class, for pickle; None for a class statement.
    __recipe__: tuple[Callable[..., InjectorMeta], tuple[Any, ...]] | None

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> InjectorMeta:
        foreign = [base.__name__ for base in bases if not isinstance(base, InjectorMeta)]
        if foreign:
            raise DependencyError(
                f"'{name}' inherits from {', '.join(foreign)}: expected injectors only."
            )
        metadata = {key: part for key, part in namespace.items() if key in _METADATA}
        parts = {key: part for key, part in namespace.items() if key not in _METADATA}
        return _create(mcs, bases, parts, metadata.get("__qualname__", name), name, metadata)

    def let(cls, /, **overrides: Any) -> InjectorMeta:
        """Return a subclass that declares `overrides` in place of what this class declares.

        Args:
            **overrides: Names and what to declare under them; new names are welcome.

        Example:
            >>> class Quantizer(Injector):
            ...     bit_width = 8
            >>> Quantizer.let(bit_width=4).bit_width
            4
        """
        metadata = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
        derived = _create(
            InjectorMeta, (cls,), overrides, f"{cls.__name__}.let(...)", cls.__name__, metadata
        )
        type.__setattr__(derived, "__recipe__", (_let, (cls, overrides)))
        return derived

    def __getattr__(cls, name: str) -> Any:
        if _is_dunder(name):
            raise AttributeError(f"type object {cls.__name__!r} has no attribute {name!r}")
        return resolve(cls, name)

    def __contains__(cls, name: object) -> bool:
        return name in cls.__declarations__

    def __and__(cls, other: InjectorMeta) -> InjectorMeta:
        return InjectorMeta(
            cls.__name__,
            (cls, other),
            {"__module__": cls.__module__, "__qualname__": cls.__qualname__},
        )

    def __dir__(cls) -> list[str]:
        return sorted({*super().__dir__(), *cls.__declarations__, "let"})

    def __call__(cls, *args: Any, **kwargs: Any) -> NoReturn:
        raise DependencyError(
            f"{cls.__name__}(): an injector has no instances; read its attributes from the class, "
            "and change some of them with .let(...)."
        )

    def __setattr__(cls, name: str, part: object) -> None:
        if not _is_dunder(name):
            raise DependencyError(
                f"'{cls.__name__}.{name}' can not be set: use {cls.__name__}.let({name}=...)."
            )
        super().__setattr__(name, part)

    def __delattr__(cls, name: str) -> None:
        raise DependencyError(f"'{cls.__name__}.{name}' can not be deleted.")


def _create(
    mcs: type[InjectorMeta],
    bases: tuple[type, ...],
    parts: Mapping[str, Any],
    owner: str,
    name: str,
    metadata: dict[str, Any],
) -> InjectorMeta:
    declarations: dict[str, Declaration] = {}
    for base in reversed(bases):
        # The left base wins with all that it inherits, also over a diamond's right side.
        declarations.update(base.__declarations__)
    for key, part in parts.items():
        if key in _RESERVED or _is_dunder(key):
            raise DependencyError(f"'{name}' can not declare '{key}': the name is reserved.")
        declarations[key] = _declare(key, part, owner)
    parent = bases[0].__parent__ if bases else None
    cls = type.__new__(
        mcs,
        name,
        bases,
        {**metadata, "__declarations__": declarations, "__parent__": parent, "__recipe__": None},
    )
    return cls


class Injector(metaclass=InjectorMeta):
    """Base class of every quantizer: a declaration of parts that are built when they are read.

    - A class is built with the attributes of the injector named like its constructor's
      arguments; arguments that have a default are optional.
    - `this.x` refers to another name, `value` marks a function that computes one.
    - Everything else, and every name that ends in `_class`, is handed out as it is.

    Of several bases the first that declares or inherits a name wins. Injectors are immutable;
    `let` derives one with other attributes.

    Example:
        >>> class Affine:
        ...     def __init__(self, scale, shift=0.0):
        ...         self.scale, self.shift = scale, shift
        >>> class Example(Injector):
        ...     affine = Affine
        ...     scale = 2.0
        >>> Example.affine.scale, Example.let(scale=0.5).affine.scale
        (2.0, 0.5)
    """


def _let(injector: InjectorMeta, overrides: dict[str, Any]) -> InjectorMeta:
    return injector.let(**overrides)


def let(injector: InjectorMeta, /, **overrides: Any) -> InjectorMeta:
    """Return `injector.let(**overrides)`.

    Args:
        injector: The injector to derive from.
        **overrides: Names and what to declare under them.

    Example:
        >>> let(Injector, bit_width=4).bit_width
        4
    """
    return injector.let(**overrides)


def _bind(nested: InjectorMeta, parent: InjectorMeta, name: str) -> InjectorMeta:
    """Return `nested`, declared as `name`, seen from `parent`: `this << 1` finds its way out."""
    metadata = {"__module__": nested.__module__, "__qualname__": nested.__qualname__}
    bound = _create(InjectorMeta, (nested,), {}, "", nested.__name__, metadata)
    type.__setattr__(bound, "__parent__", parent)
    type.__setattr__(bound, "__recipe__", (resolve, (parent, name)))
    return bound


def _reduce(injector: InjectorMeta) -> str | tuple[Any, ...]:
    return injector.__qualname__ if injector.__recipe__ is None else injector.__recipe__


copyreg.pickle(InjectorMeta, _reduce)


class _Scope:
    """One reading of an injector: what is built so far and, in order, what is being built."""

    __slots__ = ("active", "built", "caller", "declarations", "injector", "reads")

    def __init__(self, injector: InjectorMeta, caller: _Scope | None) -> None:
        self.injector = injector
        self.declarations = injector.__declarations__
        self.caller = caller
        self.built: dict[str, Any] = {}
        self.active: dict[str, None] = {}
        self.reads = current_reads.get()

    def steps(self) -> list[Step]:
        """Return what is being built, outermost name first."""
        steps = [] if self.caller is None else self.caller.steps()
        for name in self.active:
            _, part, owner = self.declarations[name]
            label = part.__name__ if isinstance(part, type) else repr(part)
            steps.append(Step(self.injector.__name__, name, label, owner))
        return steps

    def get(self, name: str) -> Any:
        """Return the attribute, built at most once."""
        built = self.built
        if name in built:
            return built[name]
        if self.reads is not None:
            self.reads.add(name)
        declaration = self.declarations.get(name)
        if declaration is None:
            raise unresolved(self.injector.__name__, name, self.steps(), self.declarations)
        kind, part, _ = declaration
        if kind is _Kind.PLAIN:
            built[name] = part
            return part
        if self._is_active(name):
            raise circular(self.injector.__name__, name, self.steps())
        self.active[name] = None
        if kind is _Kind.CLASS:
            result = self._call(part, arguments_of_class(part))
        elif kind is _Kind.NESTED:
            result = _bind(part, self.injector, name)
        else:
            result = self._settle(name, part)
        del self.active[name]
        built[name] = result
        return result

    def _is_active(self, name: str) -> bool:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.active and scope.injector is self.injector:
                return True
            scope = scope.caller
        return False

    def _settle(self, name: str, part: Any) -> Any:
        """Follow references and call functions until something remains to hand out."""
        while True:
            if isinstance(part, value):
                part = self._call(part.function, part.arguments)
            elif isinstance(part, This):
                part = self._follow(part)
            else:
                break
            part = to_native(part)
        if isinstance(part, type) and _is_buildable(part) and not name.endswith(_PLAIN_SUFFIX):
            return self._call(part, arguments_of_class(part))
        return part

    def _call(self, function: Callable[..., Any], arguments: Arguments) -> Any:
        found: dict[str, Any] = {}
        declarations = self.declarations
        for name, is_required in arguments.wanted:
            if is_required or name in declarations:
                found[name] = self.get(name)
            elif self.reads is not None:
                self.reads.add(name)
        if not arguments.positional:
            return function(**found)
        leading = []
        for name, _ in arguments.wanted[: arguments.positional]:
            if name not in found:
                break  # no later one can be passed either
            leading.append(found.pop(name))
        for name, _ in arguments.wanted[: arguments.positional]:
            found.pop(name, None)
        return function(*leading, **found)

    def _follow(self, reference: This) -> Any:
        if not reference.__path__:
            raise QuantizerResolutionError(
                f"'{self.injector.__name__}' declares {reference!r}: name what it refers to, as in "
                f"this.x\n{describe_chain(self.steps())}"
            )
        injector = self.injector
        for _ in range(reference.__levels__):
            if injector.__parent__ is None:
                raise QuantizerResolutionError(
                    f"'{self.injector.__name__}' declares {reference!r}, which climbs more levels "
                    f"than there are outer injectors\n{describe_chain(self.steps())}"
                )
            injector = injector.__parent__
        (_, first), *path = reference.__path__
        found = self.get(first) if injector is self.injector else resolve(injector, first, self)
        for kind, step in path:
            if kind != ATTRIBUTE:
                found = found[step]
            elif isinstance(found, InjectorMeta):
                found = resolve(found, step, self)
            else:
                found = getattr(found, step)
        return found


def resolve(
    injector: InjectorMeta, name: str, caller: _Scope | None = None, reads: set[str] | None = None
) -> Any:
    """Return the attribute `name` of `injector`, built in a scope of its own.

    Args:
        injector: The injector to read.
        name: The attribute.
        caller: The scope in which a reference led here.
        reads: Filled with every name that is read on the way, declared or not.

    Raises:
        DependencyError: `name`, or something that it needs, cannot be resolved.

    Example:
        >>> names = set()
        >>> resolve(Injector.let(a=value(lambda b, c=0: b), b=1), "a", reads=names)
        1
        >>> sorted(names)
        ['a', 'b', 'c']
    """
    if reads is not None:
        with record_reads(reads):
            return resolve(injector, name, caller)
    scope = _Scope(injector, caller)
    try:
        return scope.get(name)
    except DependencyError:
        raise
    except Exception as error:
        note_chain(error, injector.__name__, scope.steps())
        raise


def declared_names(injector: InjectorMeta) -> set[str]:
    """Return every name that `injector` declares or inherits.

    Args:
        injector: The injector to look at.

    Example:
        >>> sorted(declared_names(Injector.let(a=1).let(b=2)))
        ['a', 'b']
    """
    return set(injector.__declarations__)


def declaration_age(injector: InjectorMeta, name: str) -> int:
    """Return how many classes, from `injector` upwards, hand down what it declares under a name.

    Of two names the one with the smaller age was declared later, by a more special class.

    Args:
        injector: The injector to look at.
        name: A name that it declares or inherits.

    Example:
        >>> example = Injector.let(a=1).let(b=2)
        >>> declaration_age(example, "a"), declaration_age(example, "b")
        (2, 1)
    """
    declaration = injector.__declarations__[name]
    classes = (cls for cls in injector.__mro__ if isinstance(cls, InjectorMeta))
    return sum(cls.__declarations__.get(name) is declaration for cls in classes)
