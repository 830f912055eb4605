"""Small modules and in-place updates that the parts of a quantizer share.

Layer: core (L3).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = [
    "VALUE_ATTR_NAME",
    "ParameterWrapper",
    "SingleArgStatelessBuffer",
    "SliceTensor",
    "StatelessBuffer",
    "inplace_momentum_update",
    "inplace_tensor_add",
    "inplace_tensor_mul",
]

VALUE_ATTR_NAME = "value"


def inplace_tensor_add(tensor: Tensor, value: Tensor) -> Tensor:
    """Add `value` to `tensor` in place.

    Args:
        tensor: Tensor that is overwritten.
        value: Broadcastable to `tensor`.

    Returns:
        `tensor`.

    Example:
        >>> inplace_tensor_add(torch.tensor(1.), torch.tensor(2.))
        tensor(3.)
    """
    return tensor.add_(value)


def inplace_tensor_mul(tensor: Tensor, value: Tensor) -> Tensor:
    """Multiply `tensor` by `value` in place.

    Args:
        tensor: Tensor that is overwritten.
        value: Broadcastable to `tensor`.

    Returns:
        `tensor`.

    Example:
        >>> inplace_tensor_mul(torch.tensor(3.), torch.tensor(2.))
        tensor(6.)
    """
    return tensor.mul_(value)


def inplace_momentum_update(
    tensor: Tensor, update: Tensor, momentum: float | None, counter: int, new_counter: int
) -> Tensor:
    """Move a running average towards a new observation, in place.

    With a momentum, `tensor = (1 - momentum) * tensor + momentum * update`; without, the mean of
    all observations, `tensor = (tensor * counter + update) / new_counter`.

    Args:
        tensor: Running average; it is overwritten.
        update: New observation, of the shape of `tensor`.
        momentum: Weight of the new observation, or None for the mean.
        counter: Number of observations so far.
        new_counter: Number of observations including this one.

    Returns:
        `tensor`.

    Example:
        >>> inplace_momentum_update(torch.tensor(1.), torch.tensor(3.), None, 1, 2)
        tensor(2.)
    """
    if momentum is None:
        return tensor.mul_(counter / new_counter).add_(update, alpha=1.0 / new_counter)
    return tensor.mul_(1.0 - momentum).add_(update, alpha=momentum)


class StatelessBuffer(nn.Module):
    """A constant tensor that follows `.to()` but leaves no key in the state dict.

    Its value is remembered, so that it comes back after `to_empty`, after leaving the meta
    device, and in full precision after a round trip through half precision.

    Args:
        value: The constant, a tensor or a number.
        dtype: Type of the constant if `value` is a number, PyTorch's choice by default.
        device: Device of the constant if `value` is a number.

    Example:
        >>> buffer = StatelessBuffer(torch.tensor(3.))
        >>> buffer(), list(buffer.state_dict())
        (tensor(3.), [])
    """

    value: Tensor

    def __init__(
        self,
        value: Tensor | float,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self._initial: Tensor | None
        if isinstance(value, Tensor):
            buffer = value.detach()
            self._initial = None if buffer.is_meta else buffer.to("cpu", copy=True)
        else:
            buffer = torch.tensor(value, dtype=dtype, device=device)
            self._initial = torch.tensor(value, dtype=dtype, device="cpu")
        self.register_buffer(VALUE_ATTR_NAME, buffer, persistent=False)
        #: The constant as a Python number where it is one, readable without touching a device.
        self.number: float | None = None
        if self._initial is not None and self._initial.numel() == 1:
            self.number = self._initial.item()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> StatelessBuffer:
        super()._apply(fn, recurse)
        is_plain = type(self.value) is Tensor and not self.value.is_meta
        if self._initial is not None and is_plain:
            with torch.no_grad():
                self.value.copy_(self._initial)
        return self

    def replace(self, other: StatelessBuffer) -> None:
        """Take over the constant of another buffer of the same shape, in place."""
        with torch.no_grad():
            self.value.copy_(other.value)
        self._initial, self.number = other._initial, other.number

    def forward(self) -> Tensor:
        """Return the constant, detached."""
        return self.value.detach()


class SingleArgStatelessBuffer(nn.Module):
    """A constant tensor in the place of a module that takes one argument, which is ignored.

    Args:
        value: The constant, a tensor or a number.

    Example:
        >>> SingleArgStatelessBuffer(2.)(torch.rand(3))
        tensor(2.)
    """

    def __init__(self, value: Tensor | float) -> None:
        super().__init__()
        self.const = StatelessBuffer(value)

    def forward(self, placeholder: object = None) -> Tensor:
        """Return the constant; the argument is ignored."""
        return self.const()


class ParameterWrapper(nn.Module):
    """A parameter that is read by calling a module.

    Args:
        value: The parameter; a plain tensor is made one.

    Example:
        >>> list(ParameterWrapper(torch.tensor(2.)).state_dict())
        ['value']
    """

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value if isinstance(value, nn.Parameter) else nn.Parameter(value)

    def forward(self) -> Tensor:
        """Return the parameter."""
        return self.value


class SliceTensor(nn.Module):
    """Cut a part out of a tensor; without a selection, return it whole.

    `subtensor_slice_list` holds one entry per leading dimension: None for all of it, or
    `(start, stop)`. Algorithms that quantize a layer piece by piece set it for a while.

    Example:
        >>> part = SliceTensor()
        >>> part.subtensor_slice_list = [None, (0, 2)]
        >>> part(torch.zeros(3, 4)).shape
        torch.Size([3, 2])
    """

    def __init__(self) -> None:
        super().__init__()
        self.subtensor_slice_list: list[tuple[int, ...] | None] = [None]

    def eager_forward(self, x: Tensor) -> Tensor:
        """Return the selected part of `x`."""
        selection = self.subtensor_slice_list
        return x[tuple(slice(None) if part is None else slice(*part) for part in selection)]

    def forward(self, x: Tensor) -> Tensor:
        """Return the selected part of `x`, or `x` itself where nothing is selected."""
        if all(part is None for part in self.subtensor_slice_list):
            return x
        return self.eager_forward(x)
