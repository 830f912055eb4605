"""The keyword arguments of an ONNX export, checked before anything runs. Layer: export (L8)."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

import torch

from brevitas._compat import require

__all__ = ["OLDEST_OPSET", "check_options"]

# The first version of the standard operators with QuantizeLinear.
OLDEST_OPSET = 10

# Parameters of ``torch.onnx.export`` that an export fills in by itself.
_FILLED_IN = {"model", "args", "f"}
_OF_EVERY_EXPORT = ("module", "args", "export_path", "input_shape", "input_t", "disable_warnings")


def check_options(options: Mapping[str, object], own_names: Iterable[str] = ()) -> None:
    """Raise on options that no exporter knows, and on an opset that does not exist.

    Args:
        options: keyword arguments as the caller gave them.
        own_names: names of options of the export target itself.

    Raises:
        TypeError: on an unknown name; the message holds the nearest one.
        ValueError: on an ``opset_version`` that is no int, too old or too new.

    Example:
        >>> check_options({"opset": 18})
        Traceback (most recent call last):
        TypeError: opset=18: unknown keyword; did you mean opset_version?
    """
    known = {*inspect.signature(torch.onnx.export).parameters, *own_names} - _FILLED_IN
    for name, value in options.items():
        if name not in known:
            near = _nearest(name, (*known, *_OF_EVERY_EXPORT))
            hint = f"did you mean {near}?" if near else f"expected {', '.join(sorted(known))}."
            raise TypeError(f"{name}={value!r}: unknown keyword; {hint}")
    opset = options.get("opset_version")
    newest = int(require("onnx", "export").defs.onnx_opset_version())
    if opset is not None and (type(opset) is not int or not OLDEST_OPSET <= opset <= newest):
        raise ValueError(
            f"opset_version={opset!r}: expected None or an int from {OLDEST_OPSET} to {newest}, "
            "the newest that the installed onnx knows."
        )


def _nearest(name: str, names: Iterable[str]) -> str | None:
    """Find a name that begins with this one, else one that holds it, else one spelled alike."""
    longer = [item for item in sorted(names) if name in item and len(name) > 2]
    longer.sort(key=lambda item: not item.startswith(name))
    return next(iter(longer or get_close_matches(name, sorted(names), n=1)), None)
