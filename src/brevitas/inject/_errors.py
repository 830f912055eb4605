"""The errors of the injector, with the chain of names that led to them. Layer: inject (L2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from brevitas._compat import DependencyErrorBase, add_note

_NOTE_PREFIX = "Raised while resolving"


class DependencyError(DependencyErrorBase):
    """A name of an injector cannot be resolved, or an injector is declared wrongly."""


class QuantizerResolutionError(DependencyError):
    """A part of a quantizer cannot be built from what the quantizer declares."""


class UndeclaredNameError(QuantizerResolutionError, AttributeError):
    """A name read directly from an injector is declared nowhere, so `hasattr` answers False."""


class Step(NamedTuple):
    """One name that was being built when an error came up.

    `injector` is the class it was read from, `part` what was declared, `owner` who declared it.
    """

    injector: str
    name: str
    part: str
    owner: str


def describe_chain(steps: Sequence[Step], last: str | None = None) -> str:
    """Return the chain on one line and, below it, who declared each step.

    Args:
        steps: The names being built, outermost first.
        last: The name at which the chain ends, when it is not being built itself.

    Example:
        >>> print(describe_chain([Step("Q", "tensor_quant", "IntQuant", "Base")], "bit_width"))
        Chain: tensor_quant -> bit_width
          tensor_quant = IntQuant, declared by Base
    """
    names = [step.name for step in steps] + ([] if last is None else [last])
    lines = [f"Chain: {' -> '.join(names)}"]
    lines += [f"  {step.name} = {step.part}, declared by {step.owner}" for step in steps]
    return "\n".join(lines)


def unresolved(
    injector: str, name: str, steps: Sequence[Step], declared: Iterable[str]
) -> QuantizerResolutionError:
    """Return the error for a name that nobody declares.

    Args:
        injector: The name of the injector class that was asked.
        name: The name that is missing.
        steps: The names being built, outermost first; empty for a direct read.
        declared: The names that the injector declares, searched for similar ones.
    """
    message = f"'{injector}' can not resolve attribute '{name}'"
    if steps:
        message += f" while building '{steps[-1].name}'\n{describe_chain(steps, name)}"
    nearest = get_close_matches(name, list(declared), n=3, cutoff=0.7)
    if nearest:
        message += f"\nNearest declared names: {', '.join(map(repr, nearest))}."
    if not steps:
        return UndeclaredNameError(message)
    message += (
        f"\nDeclare it with {injector}.let({name}=...), or pass it to the layer as a "
        "keyword argument."
    )
    return QuantizerResolutionError(message)


def circular(injector: str, name: str, steps: Sequence[Step]) -> QuantizerResolutionError:
    """Return the error for a name that needs itself.

    Args:
        injector: The name of the injector class.
        name: The name that was met again.
        steps: The names being built, outermost first.
    """
    return QuantizerResolutionError(
        f"'{injector}' can not resolve attribute '{name}': it is a circular dependency\n"
        f"{describe_chain(steps, name)}"
    )


def note_chain(error: Exception, injector: str, steps: Sequence[Step]) -> None:
    """Add the chain to an exception that a constructor or a `value` function raised.

    Args:
        error: The exception, which keeps its type and its message.
        injector: The name of the injector class.
        steps: The names being built, outermost first.
    """
    notes: Sequence[str] = getattr(error, "__notes__", ())
    if steps and not any(note.startswith(_NOTE_PREFIX) for note in notes):
        add_note(
            error, f"{_NOTE_PREFIX} '{steps[0].name}' of '{injector}'. {describe_chain(steps)}"
        )
