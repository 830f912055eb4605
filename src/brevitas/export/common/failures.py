"""From an error inside of a tracer to one that says where and what to do. Layer: export (L8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from brevitas.export.common.spec import ExportError

__all__ = ["expect_no_state", "keeps_state", "tracing_failed"]

_LONGEST_REASON = 400


def tracing_failed(error: Exception, layer: str = "") -> ExportError:
    """Make the error that is raised in place of one from a tracer.

    Args:
        error: what the tracer raised.
        layer: dotted name of the layer that it stopped in, where that is known.

    Returns:
        An error of ours that a tracer wrapped its own around, else a new one with the reason.

    Example:
        >>> tracing_failed(ValueError("no.\\nway"), "fc")
        ExportError('tracing failed: ValueError: no. way. Make forward traceable by torch.export
        (no branches on tensor values), or take the layer out. Layer: fc')
    """
    cause = _own_error(error)
    if cause is not None:
        return cause
    return ExportError(
        f"tracing failed: {_reason(error)} Make forward traceable by torch.export (no branches on "
        f"tensor values), or take the layer out.{f' Layer: {layer}' if layer else ''}"
    )


def expect_no_state(program: Any, model: str, prefix: str = "") -> None:
    """Raise where a traced model writes to its buffers, since a file keeps nothing between calls.

    Args:
        program: a ``torch.export.ExportedProgram``.
        model: name of the model, for the message.
        prefix: what the names of its buffers begin with in the program.

    Raises:
        ExportError: with the name of the first such buffer.
    """
    changed = sorted(program.graph_signature.buffers_to_mutate.values())
    if changed:
        raise keeps_state([name.removeprefix(prefix) for name in changed], model)


def keeps_state(buffers: Sequence[str], model: str) -> ExportError:
    """Make the error about a model whose result depends on earlier calls.

    Args:
        buffers: names of the buffers that a call changes; none where the state is elsewhere.
        model: name of the model.

    Example:
        >>> keeps_state(["steps"], "Net")
        ExportError("forward changes the buffer 'steps': a file keeps no state between calls; leave
        it unchanged in evaluation mode, or take it as an input and return it. Layer: Net")
    """
    if buffers:
        what = f"forward changes the buffer {buffers[0]!r}"
    else:
        what = "two calls with equal inputs gave different results, so that forward keeps state"
    return ExportError(
        f"{what}: a file keeps no state between calls; leave it unchanged in evaluation mode, or "
        f"take it as an input and return it. Layer: {model}"
    )


def _own_error(error: BaseException | None) -> ExportError | None:
    """Find an error of ours behind those that the tracer wraps around it."""
    while error is not None:
        if isinstance(error, ExportError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _reason(error: BaseException) -> str:
    """Put what an error says, up to its first blank line, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    paragraph = str(error).strip().partition("\n\n")[0]
    text = " ".join(paragraph.split())
    if len(text) > _LONGEST_REASON:
        text = f"{text[:_LONGEST_REASON].rstrip()} ..."
    return f"{type(error).__name__}: {text.rstrip('.')}."
