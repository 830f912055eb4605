"""Autograd functions whose calls cost what they compute. Layer: utils (L0)."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import Function

__all__ = ["DirectFunction"]

_APPLY = vars(Function)["apply"]


class DirectFunction(Function):
    """An autograd function with `setup_context`, called with all of its arguments in order.

    `Function.apply` binds the arguments to the Python signature of `forward` at every call, which
    takes longer than the operation on a small tensor does. Nothing is bound here.

    Example:
        >>> class Double(DirectFunction):
        ...     @staticmethod
        ...     def forward(x):
        ...         return 2 * x
        ...     @staticmethod
        ...     def setup_context(ctx, inputs, output):
        ...         pass
        ...     @staticmethod
        ...     def backward(ctx, grad):
        ...         return 2 * grad
        >>> Double.apply(torch.ones(1))
        tensor([2.])
    """

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Call the function; differentiable, traceable, and usable under `torch.func`."""
        # A tracer of torch.fx puts an `apply` of its own in place of PyTorch's.
        is_watched = vars(Function)["apply"] is not _APPLY
        if is_watched or torch._C._are_functorch_transforms_active():
            return super().apply(*args)
        return super(Function, cls).apply(*args)  # pyright: ignore[reportAttributeAccessIssue]
