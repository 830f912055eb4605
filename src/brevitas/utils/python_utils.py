"""Small helpers on plain Python objects. Layer: utils (L0)."""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from enum import Enum
from functools import reduce, wraps
from types import FunctionType
from typing import Any, Generic, TypeVar

T = TypeVar("T")

INT_RE = re.compile(r"^[+-]?\d+$")
FLOAT_RE = re.compile(r"^[+-]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?$")


def levels_to_caller() -> int:
    """`stacklevel` of a warning that points to the first frame outside of the library.

    Example:
        >>> levels_to_caller() >= 1  # 1 in a function of the user's own
        True
    """
    frame, levels = sys._getframe(1), 1
    while frame is not None and frame.f_globals.get("__name__", "").startswith("brevitas."):
        frame, levels = frame.f_back, levels + 1
    return levels


class AutoName(str, Enum):
    """Base of enums whose values are their names, and that equal the string in any case.

    Example:
        >>> from enum import auto
        >>> class Fruit(AutoName):
        ...     APPLE = auto()
        >>> Fruit.APPLE.value, Fruit.APPLE == "apple", str(Fruit.APPLE)
        ('APPLE', True, 'APPLE')
    """

    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last_values: list[Any]) -> str:
        return name

    def __str__(self) -> str:
        return str.__str__(self)

    def __format__(self, spec: str) -> str:
        return str.__format__(self, spec)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, str) and self.lower() == other.lower()

    def __ne__(self, other: object) -> bool:
        return not self == other

    # The hash of the exact name, so that members can be found in dicts under their value.
    __hash__ = str.__hash__


class Registry(Generic[T]):
    """Objects under names.

    Args:
        registry_name: Used in messages; the class name by default.

    Example:
        >>> losses = Registry("losses")
        >>> @losses.register(["l2", "mse"])
        ... def squared(x):
        ...     return x * x
        >>> losses.get("mse")(3)
        9
    """

    def __init__(self, registry_name: str | None = None) -> None:
        self._registry_name = type(self).__name__ if registry_name is None else registry_name
        self._registry: dict[str, T] = {}

    @property
    def registry_name(self) -> str:
        """The name used in messages."""
        return self._registry_name

    def register(self, names: str | list[str]) -> Callable[[T], T]:
        """Return a decorator that puts its object under one or several names.

        Args:
            names: The name or names; one that is taken is overwritten with a warning.
        """
        keys = [names] if isinstance(names, str) else list(names)

        def put(registered: T) -> T:
            for key in keys:
                if key in self._registry:
                    warnings.warn(
                        f"'{key}' is already registered in {self.registry_name}. "
                        "Overwriting the existing value.",
                        stacklevel=2,
                    )
                self._registry[key] = registered
            return registered

        return put

    def get_registered_keys(self) -> Iterable[str]:
        """Return the names in the order of registration."""
        return self._registry.keys()

    def get(self, name: str) -> T:
        """Return what is registered under `name`.

        Args:
            name: A registered name.

        Raises:
            ValueError: Nothing is registered under `name`.
        """
        if name not in self._registry:
            raise ValueError(
                f"'{name}' not found in {self.registry_name}. "
                f"The registered keys are: {', '.join(self._registry)}"
            )
        return self._registry[name]


def recurse_getattr(obj: object, attr: str) -> Any:
    """Follow a dotted path of attributes.

    Args:
        obj: Where to begin.
        attr: Names joined by dots, e.g. `"encoder.0.weight"`.

    Example:
        >>> recurse_getattr(3, "real.__class__.__name__")
        'int'
    """
    return reduce(getattr, attr.split("."), obj)


def hooked_on_a_function(
    function: Callable[..., T], prefunction: Callable[..., object]
) -> Callable[..., T]:
    """Return a function that calls `prefunction`, then `function`, with the same arguments.

    Args:
        function: Its result is returned.
        prefunction: Its result is dropped.

    Example:
        >>> seen = []
        >>> hooked_on_a_function(abs, seen.append)(-2), seen
        (2, [-2])
    """

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> T:
        prefunction(*args, **kwargs)
        return function(*args, **kwargs)

    return run


def islambda(v: object) -> bool:
    """Return whether `v` is a function written as a lambda expression.

    Example:
        >>> islambda(lambda: 0), islambda(abs)
        (True, False)
    """
    return isinstance(v, FunctionType) and v.__name__ == "<lambda>"


@contextmanager
def patch(module: Any, attr: str, new_value: T) -> Iterator[T]:
    """Set an attribute inside a `with` block, and restore it afterwards.

    Args:
        module: The object, usually a module or a class.
        attr: An attribute that it has.
        new_value: Its value inside the block, which the block also receives.

    Raises:
        AttributeError: `module` has no attribute `attr`.
    """
    old_value = getattr(module, attr)
    setattr(module, attr, new_value)
    try:
        yield new_value
    finally:
        setattr(module, attr, old_value)


def convert_str_dict(passed_value: dict[str, Any]) -> dict[str, Any]:
    """Return a dict in which strings that read as a bool or a number are converted, at any depth.

    Args:
        passed_value: Usually parsed from a command line.

    Example:
        >>> convert_str_dict({"bits": "4", "scale": {"eps": "1e-3", "learned": "true"}})
        {'bits': 4, 'scale': {'eps': 0.001, 'learned': True}}
    """
    return {key: _convert(item) for key, item in passed_value.items()}


def _convert(item: Any) -> Any:
    if isinstance(item, dict):
        return convert_str_dict(item)
    if not isinstance(item, str):
        return item
    if item.lower() in ("true", "false"):
        return item.lower() == "true"
    if INT_RE.match(item):
        return int(item)
    if FLOAT_RE.match(item):
        return float(item)
    return item


def parse_dataclass_dicts(data_cls: Any, dict_attributes: Sequence[str]) -> None:
    """Turn attributes that hold a JSON object as text into dicts, in place.

    None becomes an empty dict; a dict stays as it is.

    Args:
        data_cls: The dataclass instance.
        dict_attributes: The attributes to convert.

    Raises:
        ValueError: An attribute does not exist or is not a JSON object.
    """
    for name in dict_attributes:
        label = f"{type(data_cls).__name__}.{name}"
        fields = vars(data_cls)
        if name not in fields:
            raise ValueError(f"{label}: no such attribute.{did_you_mean(name, fields)}")
        text = fields[name]
        if text is None:
            parsed: Any = {}
        elif isinstance(text, str):
            try:
                parsed = json.loads(text)
            except json.JSONDecodeError as error:
                raise ValueError(f"{label}={text!r}: expected a JSON object ({error}).") from error
            if isinstance(parsed, dict):
                parsed = convert_str_dict(parsed)
        else:
            parsed = text
        if not isinstance(parsed, dict):
            raise ValueError(f"{label}={text!r}: expected a dict or a JSON object as text.")
        setattr(data_cls, name, parsed)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` with the names most similar to `name`, or an empty string.

    Args:
        name: What was asked for.
        known: What there is.

    Example:
        >>> did_you_mean("bit_widht", ["bit_width", "signed"])
        " Did you mean 'bit_width'?"
    """
    nearest = get_close_matches(name, list(known), n=3, cutoff=0.7)
    return f" Did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""
