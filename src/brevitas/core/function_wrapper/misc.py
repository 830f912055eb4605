"""Elementwise functions as modules: identity, absolute value, logarithm, power of two.

Layer: core (L3).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from brevitas.function._logarithm import log_two
from brevitas.function.ops_ste import abs_binary_sign_grad

__all__ = ["Abs", "Identity", "InplaceAbs", "InplaceLogTwo", "LogTwo", "PowerOfTwo"]


class Identity(nn.Module):
    """Return the input, `y = x`.

    Example:
        >>> Identity()(torch.tensor(2.))
        tensor(2.)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`."""
        return x


class Abs(nn.Module):
    """Absolute value, `y = |x|`; its gradient at zero is 1, so that a scale at zero can move.

    Example:
        >>> Abs()(torch.tensor(-2.))
        tensor(2.)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the absolute value of `x`."""
        return abs_binary_sign_grad(x)


class InplaceAbs(nn.Module):
    """Absolute value, written over the input.

    Example:
        >>> InplaceAbs()(torch.tensor(-2.))
        tensor(2.)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Overwrite `x` with its absolute value and return it."""
        return x.abs_()


class LogTwo(nn.Module):
    """Logarithm of base two, `y = log2(x)`; an integer only where `x` is a power of two.

    Example:
        >>> LogTwo()(torch.tensor(8.))
        tensor(3.)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the logarithm of `x`, NaN where `x < 0`."""
        return log_two(x)


class InplaceLogTwo(nn.Module):
    """Logarithm of base two, written over the input.

    Example:
        >>> InplaceLogTwo()(torch.tensor(8.))
        tensor(3.)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Overwrite `x` with its logarithm and return it."""
        return x.log2_()


class PowerOfTwo(nn.Module):
    """Power of two, `y = 2 ** x`; exact where `x` is an integer.

    Example:
        >>> PowerOfTwo()(torch.tensor(3.))
        tensor(8.)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return two to the power of `x`."""
        return torch.exp2(x)
