"""`value`: a function that computes an attribute from other attributes. Layer: inject (L2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from brevitas.inject._arguments import Arguments, arguments_of_function
from brevitas.inject._errors import DependencyError


class value:
    """Mark a function of an injector as computed: its arguments are names of the injector.

    What it returns is the attribute. A returned class is built like a declared one, unless the
    name of the attribute ends in `_class`.

    Args:
        function: Takes other names of the injector; arguments with a default are optional.

    Raises:
        DependencyError: `function` is a class, not callable, or takes `self`.

    Example:
        >>> from brevitas.inject import ExtendedInjector
        >>> class Quantizer(ExtendedInjector):
        ...     bit_width = 8
        ...     @value
        ...     def levels(bit_width):
        ...         return 2 ** bit_width
        >>> Quantizer.levels, Quantizer.let(bit_width=4).levels
        (256, 16)
    """

    __slots__ = ("arguments", "function")
    function: Callable[..., Any]
    arguments: Arguments

    def __init__(self, function: Callable[..., Any]) -> None:
        if isinstance(function, staticmethod):
            function = function.__func__
        if isinstance(function, type):
            raise DependencyError(
                f"value({function.__name__}): expected a function; a class is declared as it is."
            )
        if not callable(function):
            raise DependencyError(f"value({function!r}): expected a function.")
        self.function = function
        self.arguments = arguments_of_function(function)
        if self.arguments.wanted and self.arguments.wanted[0][0] == "self":
            raise DependencyError(
                f"{self!r} takes 'self': its arguments are names of the injector, "
                "and an injector has no instances."
            )

    def __reduce__(self) -> tuple[type[value], tuple[Callable[..., Any]]]:
        return value, (self.function,)

    def __repr__(self) -> str:
        return f"value({getattr(self.function, '__qualname__', repr(self.function))})"
