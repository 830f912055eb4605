"""From a traced model to a TorchScript file. Layer: export (L8)."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from brevitas.export.common.destination import Destination, write_whole
from brevitas.export.common.examples import copied
from brevitas.export.common.failures import tracing_failed
from brevitas.export.common.spec import ExportError

__all__ = ["check_outputs", "script", "without_deprecations"]


def script(
    runner: nn.Module, values: tuple[Any, ...], destination: Destination | None
) -> torch.jit.ScriptModule:
    """Record a module with TorchScript and write the file.

    Args:
        runner: the traced model.
        values: example inputs.
        destination: where the file is written, None for nowhere.

    Returns:
        What is read back from the file, so that it shares no tensor with the model.

    Raises:
        ExportError: where TorchScript cannot record the module.
    """
    try:
        traced: Any = torch.jit.trace(
            runner.eval(), copied(values), check_trace=False, strict=False
        )
    except RuntimeError as error:
        raise tracing_failed(error) from error
    if destination is not None:
        write_whole(destination, partial(torch.jit.save, traced))
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


def check_outputs(outputs: Any, layer: str) -> None:
    """Raise on outputs that TorchScript has no type for.

    Args:
        outputs: what the model returned.
        layer: name of the model.

    Raises:
        ExportError: on anything but tensors, tuples, and lists and dicts of one type.

    Example:
        >>> check_outputs((torch.ones(1), None), "Net")
        Traceback (most recent call last):
        brevitas.export.common.spec.ExportError: the model returns (Tensor, None): a file returns
        tensors, tuples of them, and lists and dicts of one type; return a tuple. Layer: Net
    """
    if not _has_type(outputs):
        raise ExportError(
            f"the model returns {_kind(outputs)}: a file returns tensors, tuples of them, and "
            f"lists and dicts of one type; return a tuple. Layer: {layer}"
        )


def _has_type(outputs: Any) -> bool:
    if isinstance(outputs, Tensor):
        return True
    if isinstance(outputs, tuple):
        return all(map(_has_type, outputs))
    if isinstance(outputs, (list, dict)):
        items = list(outputs.values()) if isinstance(outputs, dict) else outputs
        return all(map(_has_type, items)) and len(set(map(_kind, items))) == 1
    return False


def _kind(outputs: Any) -> str:
    """Describe the structure of outputs."""
    if outputs is None:
        return "None"
    if isinstance(outputs, dict):
        inner = ", ".join(f"{name!r}: {_kind(item)}" for name, item in outputs.items())
        return f"{{{inner}}}"
    if isinstance(outputs, (tuple, list)):
        inner = ", ".join(map(_kind, outputs))
        return f"({inner})" if isinstance(outputs, tuple) else f"[{inner}]"
    return type(outputs).__name__


@contextmanager
def without_deprecations() -> Iterator[None]:
    """Keep back that TorchScript and quantized tensors are deprecated, and the tracer's notes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        tracer: Any = torch.jit
        warnings.filterwarnings("ignore", category=tracer.TracerWarning)
        warnings.filterwarnings("ignore", message=".*quantized tensor creation functions.*")
        yield
