"""Checks on tensors that must agree or be zero, without stopping a traced graph or a device queue.

Layer: quant_tensor (L2).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Two float32 computations of one scale differ by a few roundings, 1.2e-7 each.
RELATIVE_TOLERANCE = 1e-5


def is_traced() -> bool:
    """Whether values are symbolic now: a branch on them would break or specialise the graph."""
    return torch.compiler.is_compiling() or is_script_traced()


def is_script_traced() -> bool:
    """Whether `torch.jit.trace` records now."""
    return not torch.compiler.is_compiling() and torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]


def flag_tensor(flag: bool) -> Tensor:
    """A flag as a 0-d bool tensor on the host, made by an operation that every tracer records."""
    make = torch.ones if flag else torch.zeros
    return make((), dtype=torch.bool)


def assert_on_device(condition: Tensor, message: str) -> None:
    """Raise where the graph or the device queue reaches this point, if `condition` is false."""
    torch._assert_async(condition, message)  # pyright: ignore[reportPrivateImportUsage]


def is_readable(tensor: Tensor) -> bool:
    """Whether the host can read `tensor` without a trace break and without a device sync."""
    return tensor.device.type == "cpu" and not is_traced()


def is_close(first: Tensor, second: Tensor) -> Tensor:
    """Elementwise equality up to rounding, relative to the larger magnitude."""
    limit = RELATIVE_TOLERANCE * torch.maximum(first.abs(), second.abs())
    return (first - second).abs() <= limit


def known_equal(first: Tensor, second: Tensor) -> bool | None:
    """Whether two tensors agree, or None where only the device knows.

    Args:
        first: Any tensor.
        second: Tensor on the same device.

    Returns:
        True for one object; the comparison by value on a readable device; else None. Shapes that
        do not broadcast are different.
    """
    if first is second:
        return True
    if not is_readable(first):
        return None
    if first.numel() == 1 and second.numel() == 1:
        a, b = first.item(), second.item()
        return a == b or abs(a - b) <= RELATIVE_TOLERANCE * max(abs(a), abs(b))
    try:
        return bool(is_close(first, second).all())
    except RuntimeError:
        return False


def known_zero(tensor: Tensor) -> bool | None:
    """Whether every element is zero, or None where only the device knows."""
    if not is_readable(tensor):
        return None
    if tensor.numel() == 1:
        return tensor.item() == 0
    return not bool(tensor.any())


def _shown(tensor: Tensor) -> str:
    return str(tensor.item()) if tensor.numel() == 1 else f"{tensor.detach()}"


def require_equal(first: Tensor, second: Tensor, headline: str, remedy: str, in_step: bool) -> None:
    """Raise unless two tensors agree.

    Args:
        first: Any tensor.
        second: Tensor on the same device.
        headline: Start of the message.
        remedy: End of the message: what to do.
        in_step: Whether this runs inside a training step, where an accelerator is not waited for.

    Raises:
        RuntimeError: They differ. In a traced graph, and inside a step on an accelerator, an
            assertion in the graph or on the device queue raises instead.
    """
    equal = known_equal(first, second)
    if equal is None and (in_step or is_traced()):
        assert_on_device(is_close(first, second).all(), f"{headline}. {remedy}")
        return
    if equal is None:
        equal = known_equal(first.cpu(), second.cpu())
    if not equal:
        # The headline on a line of its own, as code that prints the error expects it.
        raise RuntimeError(f"{headline}\n{_shown(first)} and {_shown(second)}. {remedy}")


def require_zero(tensor: Tensor, headline: str, remedy: str, in_step: bool) -> None:
    """Raise unless every element is zero; see `require_equal` for where it is checked."""
    zero = known_zero(tensor)
    if zero is None and (in_step or is_traced()):
        assert_on_device((tensor == 0).all(), f"{headline}. {remedy}")
        return
    if zero is None:
        zero = known_zero(tensor.cpu())
    if not zero:
        raise RuntimeError(f"{headline}: {_shown(tensor)}. {remedy}")


def require(holds: Tensor | bool, headline: str, explain: Callable[[], str], in_step: bool) -> None:
    """Raise unless a condition holds; see `require_equal` for where it is checked.

    Args:
        holds: Bool, 0-d if a tensor.
        headline: Start of the message, and the whole of it on the device.
        explain: Gives the rest of the message, from values that may be read.
        in_step: Whether this runs inside a training step.

    Raises:
        RuntimeError: It does not hold.
    """
    if isinstance(holds, Tensor) and (is_traced() or (in_step and not is_readable(holds))):
        assert_on_device(holds, headline)
    elif not holds:
        raise RuntimeError(f"{headline}: {explain()}")
