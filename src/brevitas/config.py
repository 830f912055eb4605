"""Global switches, set by environment variables, by assignment or inside `overrides`. Layer: L0.

| flag | environment variable | meaning |
|---|---|---|
| `JIT_ENABLED` | `BREVITAS_JIT` | run each quantizer as a region compiled by TorchInductor |
| `VERBOSE` | `BREVITAS_VERBOSE` | print what is skipped or replaced |
| `LOGGING_LEVEL` | `BREVITAS_LOGGING_LEVEL` | level of the library's loggers |
| `IGNORE_MISSING_KEYS` | `BREVITAS_IGNORE_MISSING_KEYS` | load without quantizer state |
| `REINIT_ON_STATE_DICT_LOAD` | `BREVITAS_REINIT_ON_STATE_DICT_LOAD` | rebuild after loading |
| `NATIVE_STE_BACKEND_ENABLED` | `BREVITAS_NATIVE_STE_BACKEND` | ask for the C++ gradients |

`IGNORE_PROXY_KEYS` is a context variable: while true, proxies keep out of state dicts. Read a flag
as `config.X` when it is needed, so that assignments take effect.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

from brevitas.utils.python_utils import did_you_mean, patch

_TRUE = ("y", "yes", "t", "true", "on", "1")
_FALSE = ("n", "no", "f", "false", "off", "0")
_LEVELS = ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG", "NOTSET")


def strtobool(val: str) -> bool:
    """Read a truth value, in any case.

    Args:
        val: One of y, yes, t, true, on, 1, n, no, f, false, off, 0.

    Raises:
        ValueError: `val` is none of these.

    Example:
        >>> strtobool("On"), strtobool("0")
        (True, False)
    """
    word = val.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"invalid truth value {val!r}: expected one of {', '.join(_TRUE + _FALSE)}.")


def env_to_bool(name: str, default: bool) -> bool:
    """Read a truth value from an environment variable.

    Args:
        name: The variable.
        default: The result where the variable is not set.

    Raises:
        ValueError: The variable holds no truth value.
    """
    text = os.environ.get(name)
    if text is None:
        return default
    try:
        return strtobool(text)
    except ValueError as error:
        raise ValueError(f"environment variable {name}: {error}") from None


def _env_to_level(name: str, default: str) -> str:
    text = os.environ.get(name, default).strip().upper()
    if text not in _LEVELS:
        raise ValueError(
            f"environment variable {name}: invalid level {os.environ[name]!r}: expected one of "
            f"{', '.join(_LEVELS)}."
        )
    return text


JIT_ENABLED: bool = env_to_bool("BREVITAS_JIT", False)
VERBOSE: bool = env_to_bool("BREVITAS_VERBOSE", False)
LOGGING_LEVEL: str = _env_to_level("BREVITAS_LOGGING_LEVEL", "CRITICAL")
IGNORE_MISSING_KEYS: bool = env_to_bool("BREVITAS_IGNORE_MISSING_KEYS", False)
REINIT_ON_STATE_DICT_LOAD: bool = env_to_bool("BREVITAS_REINIT_ON_STATE_DICT_LOAD", True)
NATIVE_STE_BACKEND_ENABLED: bool = env_to_bool("BREVITAS_NATIVE_STE_BACKEND", False)
IGNORE_PROXY_KEYS: ContextVar[bool] = ContextVar("IGNORE_PROXY_KEYS", default=False)

_FLAGS = (
    "IGNORE_MISSING_KEYS",
    "IGNORE_PROXY_KEYS",
    "JIT_ENABLED",
    "LOGGING_LEVEL",
    "NATIVE_STE_BACKEND_ENABLED",
    "REINIT_ON_STATE_DICT_LOAD",
    "VERBOSE",
)


class _ThisModule:
    """Gives `patch` attribute access to this module's globals."""

    def __getattr__(self, name: str) -> object:
        return globals()[name]

    def __setattr__(self, name: str, flag: object) -> None:
        globals()[name] = flag


@contextmanager
def _set_ignore_proxy_keys(flag: bool) -> Iterator[None]:
    token = IGNORE_PROXY_KEYS.set(flag)
    try:
        yield
    finally:
        IGNORE_PROXY_KEYS.reset(token)


@contextmanager
def overrides(**flags: bool | str) -> Iterator[None]:
    """Set flags inside a `with` block, and restore them however it ends.

    Args:
        **flags: Names and values of flags, e.g. `IGNORE_MISSING_KEYS=True`.

    Raises:
        ValueError: There is no such flag, or the level is none of logging's.
        TypeError: A value is not of the flag's type.

    Example:
        >>> from brevitas import config
        >>> with config.overrides(VERBOSE=True):
        ...     config.VERBOSE
        True
        >>> config.VERBOSE
        False
    """
    for name, flag in flags.items():
        _check_flag(name, flag)
    with ExitStack() as stack:
        for name, flag in flags.items():
            if name == "IGNORE_PROXY_KEYS":
                stack.enter_context(_set_ignore_proxy_keys(bool(flag)))
            else:
                stack.enter_context(patch(_ThisModule(), name, flag))
        yield


def _check_flag(name: str, flag: object) -> None:
    if name not in _FLAGS:
        raise ValueError(
            f"config.{name}: no such flag; expected one of {', '.join(_FLAGS)}."
            f"{did_you_mean(name, _FLAGS)}"
        )
    if name == "LOGGING_LEVEL":
        if flag not in _LEVELS:
            raise ValueError(f"{name}={flag!r}: expected one of {', '.join(_LEVELS)}.")
    elif not isinstance(flag, bool):
        raise TypeError(f"{name}={flag!r}: expected a bool.")
