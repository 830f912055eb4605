"""Which arguments a constructor or a function wants, read off its signature. Layer: inject (L2)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary


class Arguments(NamedTuple):
    """The names a callable takes, in order; `*args` and `**kwargs` take nothing by name.

    `wanted` pairs each name with whether it is required; `positional` counts the leading names
    that can only be passed by position.
    """

    wanted: tuple[tuple[str, bool], ...]
    positional: int = 0


_NOTHING = Arguments(())
# By constructor, not by class: a replaced constructor is read anew, and no class is kept alive.
_BY_CONSTRUCTOR: WeakKeyDictionary[FunctionType, Arguments] = WeakKeyDictionary()


def arguments_of_function(function: Callable[..., Any], skip_first: bool = False) -> Arguments:
    """Return the arguments of a function.

    Args:
        function: Any callable with a signature.
        skip_first: Leave out the first argument (`self` of a constructor).

    Example:
        >>> arguments_of_function(lambda bit_width, signed=True: None).wanted
        (('bit_width', True), ('signed', False))
    """
    if type(function) is FunctionType and not function.__dict__:
        return _arguments_of_code(function, skip_first)
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # written in C, without a signature
        return _NOTHING
    if skip_first and parameters and parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
        parameters = parameters[1:]
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return Arguments(
        tuple((p.name, p.default is p.empty) for p in named),
        sum(p.kind is p.POSITIONAL_ONLY for p in named),
    )


def _arguments_of_code(function: FunctionType, skip_first: bool) -> Arguments:
    """Read a plain Python function without `inspect`, which is 30 times slower."""
    code = function.__code__
    first = int(skip_first and code.co_argcount > 0)
    count = code.co_argcount
    by_position = code.co_varnames[:count]
    optional_from = count - len(function.__defaults__ or ())
    keyword_defaults = function.__kwdefaults__ or {}
    by_keyword = code.co_varnames[count : count + code.co_kwonlyargcount]
    wanted = [(name, index < optional_from) for index, name in enumerate(by_position)][first:]
    wanted += [(name, name not in keyword_defaults) for name in by_keyword]
    return Arguments(tuple(wanted), max(code.co_posonlyargcount - first, 0))


def arguments_of_class(cls: type) -> Arguments:
    """Return the arguments that building `cls` takes.

    Its `__init__` decides; where it has none of its own, `__new__` does (named tuples).

    Args:
        cls: The class to inspect.
    """
    constructor: Any = cls.__init__
    if constructor is object.__init__:
        constructor = cls.__new__
        if constructor is object.__new__:
            return _NOTHING
    if type(constructor) is not FunctionType:  # written in C
        return arguments_of_function(constructor, skip_first=True)
    arguments = _BY_CONSTRUCTOR.get(constructor)
    if arguments is None:
        arguments = arguments_of_function(constructor, skip_first=True)
        _BY_CONSTRUCTOR[constructor] = arguments
    return arguments
