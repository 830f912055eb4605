"""Straight-through rounding, clamping and signs: the functions that quantizers are trained with.

Layer: function (L1).

Each function computes one non-differentiable operation and passes gradients through as its
docstring says. The implementation is looked up in `brevitas.ops.autograd_ste_ops` at every call.

Reference: Bengio, Leonard and Courville, "Estimating or Propagating Gradients Through Stochastic
Neurons for Conditional Computation", 2013.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from brevitas.ops import autograd_ste_ops

__all__ = [
    "round_ste",
    "ceil_ste",
    "floor_ste",
    "tensor_clamp_ste",
    "tensor_clamp_ste_",
    "scalar_clamp_ste",
    "scalar_clamp_min_ste",
    "scalar_signed_clamp_min_ste",
    "binary_sign_ste",
    "ternary_sign_ste",
    "round_to_zero_ste",
    "dpu_round_ste",
    "abs_binary_sign_grad",
]

# Read by clients: the package whose `ops` hold the implementations, and the decorator that kept
# these functions out of TorchScript. The root package is taken from the table of loaded modules,
# since importing it from here would close an import cycle.
fn_prefix = sys.modules[__name__.partition(".")[0]]
script_flag = torch.jit.ignore


def round_ste(x: Tensor) -> Tensor:
    """Round to the nearest integer, halves to even; the gradient is 1 everywhere.

    Args:
        x: Any floating-point tensor.

    Returns:
        Integer values in the shape and dtype of `x`.

    Example:
        >>> x = torch.tensor([1.7, -1.7], requires_grad=True)
        >>> y = round_ste(x)
        >>> y.detach()
        tensor([ 2., -2.])
        >>> y.sum().backward(); x.grad
        tensor([1., 1.])
    """
    return autograd_ste_ops.round_ste_impl(x)


def ceil_ste(x: Tensor) -> Tensor:
    """Round up; the gradient is 1 everywhere.

    Args:
        x: Any floating-point tensor.

    Returns:
        Integer values in the shape and dtype of `x`.

    Example:
        >>> ceil_ste(torch.tensor([1.2, -1.7]))
        tensor([ 2., -1.])
    """
    return autograd_ste_ops.ceil_ste_impl(x)


def floor_ste(x: Tensor) -> Tensor:
    """Round down; the gradient is 1 everywhere.

    Args:
        x: Any floating-point tensor.

    Returns:
        Integer values in the shape and dtype of `x`.

    Example:
        >>> floor_ste(torch.tensor([1.7, -1.2]))
        tensor([ 1., -2.])
    """
    return autograd_ste_ops.floor_ste_impl(x)


def tensor_clamp_ste(x: Tensor, min_val: Tensor, max_val: Tensor) -> Tensor:
    """Clamp to tensors; the gradient is 1 for `x` everywhere and 0 for the bounds.

    Args:
        x: Any floating-point tensor.
        min_val: Lower bound, broadcastable to `x`.
        max_val: Upper bound, broadcastable to `x`.

    Returns:
        Tensor of the shape of `x`, within the bounds.

    Example:
        >>> tensor_clamp_ste(torch.tensor([-3., 3.]), torch.tensor(-1.), torch.tensor(2.))
        tensor([-1.,  2.])
    """
    return autograd_ste_ops.tensor_clamp_ste_impl(x, min_val, max_val)


def tensor_clamp_ste_(x: Tensor, min_val: Tensor, max_val: Tensor) -> Tensor:
    """Clamp to tensors in place; the gradient is 1 for `x` everywhere and 0 for the bounds.

    Args:
        x: Any floating-point tensor; it is overwritten.
        min_val: Lower bound, broadcastable to `x`.
        max_val: Upper bound, broadcastable to `x`.

    Returns:
        `x`, within the bounds.

    Example:
        >>> x = torch.tensor([-3., 3.])
        >>> y = tensor_clamp_ste_(x, torch.tensor(-1.), torch.tensor(2.))
        >>> x
        tensor([-1.,  2.])
    """
    return autograd_ste_ops.tensor_clamp_ste_impl_(x, min_val, max_val)


def scalar_clamp_ste(x: Tensor, min_val: float, max_val: float) -> Tensor:
    """Clamp to numbers; the gradient is 1 everywhere, also outside of the range.

    Args:
        x: Any floating-point tensor.
        min_val: Lower bound.
        max_val: Upper bound.

    Returns:
        Tensor of the shape of `x`, within the bounds.

    Example:
        >>> scalar_clamp_ste(torch.tensor([-3., 3.]), -1., 2.)
        tensor([-1.,  2.])
    """
    return autograd_ste_ops.scalar_clamp_ste_impl(x, min_val, max_val)


def scalar_clamp_min_ste(x: Tensor, min_val: float) -> Tensor:
    """Clamp from below to a number; the gradient is 1 everywhere.

    Args:
        x: Any floating-point tensor.
        min_val: Lower bound.

    Returns:
        Tensor of the shape of `x`, not below the bound.

    Example:
        >>> scalar_clamp_min_ste(torch.tensor([-3., 3.]), -1.)
        tensor([-1.,  3.])
    """
    return autograd_ste_ops.scalar_clamp_min_ste_impl(x, min_val)


def scalar_signed_clamp_min_ste(x: Tensor, min_val: float) -> Tensor:
    """Clamp the magnitude from below, `sign(x) * max(abs(x), min_val)`; the gradient is 1.

    Args:
        x: Any floating-point tensor.
        min_val: Smallest magnitude, not negative.

    Returns:
        Tensor of the shape of `x` with its signs; zero counts as positive.

    Example:
        >>> scalar_signed_clamp_min_ste(torch.tensor([-3., -0.1, 0.]), 0.5)
        tensor([-3.0000, -0.5000,  0.5000])
    """
    return autograd_ste_ops.scalar_signed_clamp_min_ste_impl(x, min_val)


def binary_sign_ste(x: Tensor) -> Tensor:
    """Sign with `sign(0) = 1`; the gradient is 1 everywhere.

    Args:
        x: Any floating-point tensor.

    Returns:
        1 and -1 in the shape and dtype of `x`.

    Example:
        >>> binary_sign_ste(torch.tensor([-2., 0., 3.]))
        tensor([-1.,  1.,  1.])
    """
    return autograd_ste_ops.binary_sign_ste_impl(x)


def ternary_sign_ste(x: Tensor) -> Tensor:
    """Sign with `sign(0) = 0`; the gradient is 1 everywhere.

    Args:
        x: Any floating-point tensor.

    Returns:
        -1, 0 and 1 in the shape and dtype of `x`.

    Example:
        >>> ternary_sign_ste(torch.tensor([-2., 0., 3.]))
        tensor([-1.,  0.,  1.])
    """
    return autograd_ste_ops.ternary_sign_ste_impl(x)


def round_to_zero_ste(x: Tensor) -> Tensor:
    """Round towards zero; the gradient is 1 everywhere.

    Args:
        x: Any floating-point tensor.

    Returns:
        Integer values in the shape and dtype of `x`.

    Example:
        >>> round_to_zero_ste(torch.tensor([1.7, -1.7]))
        tensor([ 1., -1.])
    """
    return autograd_ste_ops.round_to_zero_ste_impl(x)


def dpu_round_ste(x: Tensor) -> Tensor:
    """Round as the DPU accelerator does, negative halves upwards; the gradient is 1 everywhere.

    Args:
        x: Any floating-point tensor.

    Returns:
        Integer values in the shape and dtype of `x`.

    Example:
        >>> dpu_round_ste(torch.tensor([-1.5, 1.5]))
        tensor([-1.,  2.])
    """
    return autograd_ste_ops.dpu_round_ste_impl(x)


def abs_binary_sign_grad(x: Tensor) -> Tensor:
    """Absolute value with gradient `1 if x >= 0 else -1`, so that zero is no fixed point.

    Args:
        x: Any floating-point tensor.

    Returns:
        Tensor of the shape and dtype of `x`, not negative.

    Example:
        >>> x = torch.tensor([-2., 0.], requires_grad=True)
        >>> abs_binary_sign_grad(x).sum().backward(); x.grad
        tensor([-1.,  1.])
    """
    return autograd_ste_ops.abs_binary_sign_grad_impl(x)
