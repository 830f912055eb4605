"""Everything that depends on an installed version or on an optional package. Layer: L0."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

__all__ = [
    "DependencyErrorBase",
    "Version",
    "add_note",
    "optional",
    "require",
    "standalone_compile",
    "torch_version",
]


class Version(tuple[int, ...]):
    """The leading numbers of a version; compares with tuples, strings and `packaging` versions.

    Whatever follows the numbers (`a0`, `rc1`, `+cpu`, `.dev2026`) is dropped.

    Args:
        text: A version such as `"2.13.0+cpu"`, or anything that prints as one.

    Raises:
        ValueError: `text` does not begin with a number.

    Example:
        >>> Version("2.13.0+cpu")
        Version('2.13.0')
        >>> Version("2.13.0") >= (2, 4), Version("2.13.0") >= "2.4"
        (True, True)
    """

    __slots__ = ()

    def __new__(cls, text: object) -> Version:
        match = re.match(r"\d+(?:\.\d+)*", str(text))
        if match is None:
            raise ValueError(f"version {text!r}: expected numbers first, as in '2.13.0'.")
        return super().__new__(cls, (int(part) for part in match.group().split(".")))

    def _numbers(self, other: object) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return both as tuples of one length: 2.1 is 2.1.0."""
        numbers = other if isinstance(other, tuple) else Version(other)
        length = max(len(self), len(numbers))
        return (
            tuple(self) + (0,) * (length - len(self)),
            tuple(numbers) + (0,) * (length - len(numbers)),
        )

    def __lt__(self, other: object) -> bool:
        mine, theirs = self._numbers(other)
        return mine < theirs

    def __le__(self, other: object) -> bool:
        mine, theirs = self._numbers(other)
        return mine <= theirs

    def __gt__(self, other: object) -> bool:
        return not self <= other

    def __ge__(self, other: object) -> bool:
        return not self < other

    def __eq__(self, other: object) -> bool:
        try:
            mine, theirs = self._numbers(other)
        except ValueError:
            return False
        return mine == theirs

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        numbers = tuple(self)
        while numbers and numbers[-1] == 0:
            numbers = numbers[:-1]
        return hash(numbers)

    def __str__(self) -> str:
        return ".".join(map(str, self))

    def __repr__(self) -> str:
        return f"Version('{self}')"


torch_version: Version


def __getattr__(name: str) -> Version:
    # Read when first asked for: names and enums can be imported without loading torch.
    if name != "torch_version":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    version = Version(importlib.import_module("torch").__version__)
    globals()[name] = version
    return version


def require(name: str, extra: str) -> ModuleType:
    """Import an optional package, or say how to install it.

    Args:
        name: The module to import, e.g. `"onnx"`.
        extra: The optional dependency group of brevitas that holds it, e.g. `"export"`.

    Returns:
        The imported module.

    Raises:
        ImportError: `name` is not installed; the message names the extra.

    Example:
        >>> require("json", "export").__name__
        'json'
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{name}.".startswith(f"{error.name}."):
            raise  # `name` is there, one of its own dependencies is not
        raise ImportError(
            f"{name} is not installed, and this feature needs it. "
            f'Install it with: pip install "brevitas[{extra}]"',
            name=name,
        ) from error


def optional(name: str, attribute: str) -> Any:
    """Return a function of a package that speeds something up, or None where it is missing.

    Args:
        name: The module to import.
        attribute: The name of the function in it.

    Example:
        >>> optional("math", "sqrt")(4.0), optional("no_such_package", "sqrt")
        (2.0, None)
    """
    try:
        return getattr(importlib.import_module(name), attribute)
    except (ImportError, AttributeError):
        return None


def standalone_compile(graph: Any, examples: Sequence[Any]) -> Callable[..., Any]:
    """Compile a traced graph by TorchInductor, for the sizes that are symbols in it.

    Args:
        graph: A `torch.fx.GraphModule` of ATen operations.
        examples: Tensors like those it was traced with.

    Returns:
        The compiled graph, a function that checks nothing.
    """
    # Loaded by the first compilation, and too slow to load before.
    inductor = importlib.import_module("torch._inductor")
    return inductor.standalone_compile(graph, list(examples), dynamic_shapes="from_graph")


def add_note(error: BaseException, note: str) -> None:
    """Attach a line to an exception where Python can do so (3.11 and later).

    Args:
        error: The exception that is passing by.
        note: The text that a traceback prints below the message.
    """
    if sys.version_info >= (3, 11):
        error.add_note(note)


def _base_of_dependency_errors() -> type[Exception]:
    """Return `DependencyError` of the package `dependencies` where installed, else `Exception`."""
    try:
        found = importlib.import_module("dependencies.exceptions").DependencyError
    except (ImportError, AttributeError):
        return Exception
    return found if isinstance(found, type) and issubclass(found, Exception) else Exception


DependencyErrorBase: type[Exception] = _base_of_dependency_errors()
