"""The inputs of a model under value trace: which parameter gets which value.

Layer: fx (L2).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.fx import wrap
from torch.fx._symbolic_trace import PH

__all__ = ["UnsetValueException", "assert_specialized", "bind_values", "default_of", "is_constant"]

_CONSTANTS = (type(None), bool, int, float, complex, str, torch.dtype, torch.device)
# A default of these types selects what a model does; numbers are data.
_SELECTING = (type(None), bool, str)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class UnsetValueException(Exception):
    """A required argument of a model under value trace has no value."""


@wrap
def assert_specialized(value: Any, expected: Any, name: str) -> None:
    """Refuse an argument that differs from the one for which a model was traced.

    Args:
        value: What the traced model is called with.
        expected: What it was traced with.
        name: The name of the argument.

    Raises:
        ValueError: They differ.

    Example:
        >>> assert_specialized(True, True, "normalize")
    """
    if value is not expected and not (type(value) is type(expected) and value == expected):
        raise ValueError(
            f"{name}={value!r}: this model was traced with {name}={expected!r}, and the trace "
            "follows that value only. Trace it again for the other one."
        )


def is_constant(value: Any) -> bool:
    """Whether a value can stand in generated code as it is."""
    return isinstance(value, _CONSTANTS)


def bind_values(
    function: Callable[..., Any],
    skip: int,
    concrete_args: Mapping[str, Any] | tuple[Any, ...] | None,
    value_args: Mapping[str, Any] | tuple[Any, ...] | None,
) -> list[tuple[inspect.Parameter, Any, bool]]:
    """Give each parameter of a function its value, in the order of the signature.

    Args:
        function: The function to be traced.
        skip: Leading parameters that are bound already (1 for `self`).
        concrete_args: Values that become part of the trace, by name or by position.
        value_args: Values that the trace follows and replaces by inputs.

    Returns:
        Triples (parameter, value, whether the value is fixed).

    Raises:
        TypeError: A name is no parameter of the function, or the arguments are no dict or tuple.
        UnsetValueException: A required parameter has no value.
    """
    parameters = list(inspect.signature(function).parameters.values())[skip:]
    fixed = _by_name("concrete_args", concrete_args, parameters, function)
    given = _by_name("value_args", value_args, parameters, function)
    fixed = {name: value for name, value in fixed.items() if value is not PH}
    bound = []
    for parameter in parameters:
        name = parameter.name
        if name in fixed:
            bound.append((parameter, fixed[name], True))
        elif name in given:
            bound.append((parameter, given[name], given[name] is None))
        elif parameter.kind in _VARIADIC:
            empty: Any = () if parameter.kind is parameter.VAR_POSITIONAL else {}
            bound.append((parameter, empty, False))
        elif parameter.default is not parameter.empty:
            bound.append((parameter, parameter.default, isinstance(parameter.default, _SELECTING)))
        else:
            raise UnsetValueException(
                f"value_args: no value for the argument {name!r} of {function.__qualname__}. "
                f"Accepted: a value for each of {_names(parameters)} that has no default."
            )
    return bound


def default_of(bound: list[tuple[inspect.Parameter, Any, bool]], index: int) -> tuple[Any, ...]:
    """Return the default of the placeholder at an index: (value,), or () for none.

    An argument with a fixed value defaults to it, unless a required one follows.
    """
    parameter, value, fixed = bound[index]
    if parameter.kind in _VARIADIC:
        return ()
    if fixed and is_constant(value):
        later = (p for p, _, is_fixed in bound[index + 1 :] if not is_fixed)
        required = any(p.default is p.empty and p.kind not in _VARIADIC for p in later)
        return () if required else (value,)
    return () if parameter.default is parameter.empty else (parameter.default,)


def _by_name(
    keyword: str, arguments: Any, parameters: list[inspect.Parameter], function: Callable[..., Any]
) -> dict[str, Any]:
    if arguments is None:
        return {}
    if isinstance(arguments, (tuple, list)):
        return _from_positions(keyword, tuple(arguments), parameters, function)
    if not isinstance(arguments, Mapping):
        kind = type(arguments).__name__
        raise TypeError(
            f"{keyword}: got {kind}, expected a dict from argument names to values, or a tuple "
            f"in the order {_names(parameters)}."
        )
    named = dict(arguments)
    known = {parameter.name for parameter in parameters}
    rest = {name: named.pop(name) for name in list(named) if name not in known}
    keywords = [p.name for p in parameters if p.kind is p.VAR_KEYWORD]
    if rest and not keywords:
        raise TypeError(
            f"{keyword}: {next(iter(rest))!r} is no argument of {function.__qualname__}. "
            f"Accepted: {_names(parameters)}."
        )
    if rest:
        named[keywords[0]] = {**named.get(keywords[0], {}), **rest}
    return named


def _from_positions(
    keyword: str,
    arguments: tuple[Any, ...],
    parameters: list[inspect.Parameter],
    function: Callable[..., Any],
) -> dict[str, Any]:
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in parameters if p.kind in positional]
    named = dict(zip(names, arguments, strict=False))
    rest = arguments[len(names) :]
    variadic = [p.name for p in parameters if p.kind is p.VAR_POSITIONAL]
    if rest and not variadic:
        raise TypeError(
            f"{keyword}: got {len(arguments)} values, expected at most {len(names)} for "
            f"{function.__qualname__}: {names}."
        )
    return {**named, variadic[0]: rest} if rest else named


def _names(parameters: list[inspect.Parameter]) -> list[str]:
    return [parameter.name for parameter in parameters]
