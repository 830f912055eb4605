"""Where in a model something happened while it was traced: the layer and the line.

Layer: fx (L2).
"""

from __future__ import annotations

import linecache
import os
import sys
import traceback
from types import FrameType

import torch
from torch.fx import Tracer

from brevitas._compat import add_note

__all__ = ["FRAME_FILES", "explain", "user_line"]

# Folders whose frames belong to the tracing machinery, not to a model.
FRAME_FILES = [
    os.path.dirname(os.path.abspath(__file__)) + os.sep,
    os.path.dirname(os.path.abspath(torch.__file__)) + os.sep,
]


def _is_user_file(filename: str) -> bool:
    return not filename.startswith(tuple(FRAME_FILES))


def user_line() -> str:
    """Return `file:line` of the innermost frame that runs code of a model."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _is_user_file(frame.f_code.co_filename):
        frame = frame.f_back
    return "unknown line" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def explain(error: Exception, tracer: Tracer, remedy: str = "") -> None:
    """Append the layer under trace and the line of the model to the message of an error.

    Args:
        error: The exception that is passing by; keeps its type.
        tracer: The tracer that was at work.
        remedy: What to do instead; a sentence, or nothing.
    """
    parts = [f"Layer: {_layer(tracer)}", _failing_line(error), remedy]
    text = "\n".join(part for part in parts if part)
    if not error.args:
        error.args = (text,)
    elif isinstance(error.args[0], str):
        error.args = (f"{error.args[0]}\n{text}", *error.args[1:])
    else:
        add_note(error, text)


def _layer(tracer: Tracer) -> str:
    # A call that raises leaves its entry on the stack of modules: the last is the innermost.
    root = type(tracer.root).__name__
    if not tracer.module_stack:
        return f"the root ({root})"
    name, kind = next(reversed(tracer.module_stack.values()))
    return f"{name} ({getattr(kind, '__name__', kind)}) of {root}"


def _failing_line(error: Exception) -> str:
    frames = [
        (frame.f_code.co_filename, number)
        for frame, number in traceback.walk_tb(error.__traceback__)
        if _is_user_file(frame.f_code.co_filename)
    ]
    if not frames:
        return ""
    filename, number = frames[-1]
    code = linecache.getline(filename, number).strip()
    return f"Line: {filename}:{number}" + (f": {code}" if code else "")
