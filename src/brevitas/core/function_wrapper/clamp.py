"""Clamps as modules; their gradient is zero where they limit.

Layer: core (L3). Clamps with straight-through gradients are in `ops_ste`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from brevitas.function.ops import tensor_clamp

__all__ = ["ClampMin", "ScalarClamp", "TensorClamp"]


class TensorClamp(nn.Module):
    """Clamp to tensors; where a bound is active, the gradient goes to the bound.

    Example:
        >>> TensorClamp()(torch.tensor([-3., 3.]), torch.tensor(-1.), torch.tensor(2.))
        tensor([-1.,  2.])
    """

    def forward(self, x: Tensor, min_val: Tensor, max_val: Tensor) -> Tensor:
        """Return `x` limited to `[min_val, max_val]`, which broadcast to `x`."""
        return tensor_clamp(x, min_val, max_val)


class ScalarClamp(nn.Module):
    """Clamp to two numbers.

    Args:
        min_val: Lower bound.
        max_val: Upper bound.

    Example:
        >>> ScalarClamp(-1., 2.)(torch.tensor([-3., 3.]))
        tensor([-1.,  2.])
    """

    def __init__(self, min_val: float, max_val: float) -> None:
        super().__init__()
        self.min_val = min_val
        self.max_val = max_val

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` limited to `[min_val, max_val]`."""
        return torch.clamp(x, self.min_val, self.max_val)


class ClampMin(nn.Module):
    """Clamp from below to a number.

    Args:
        min_val: Lower bound.

    Example:
        >>> ClampMin(-1.)(torch.tensor([-3., 3.]))
        tensor([-1.,  3.])
    """

    def __init__(self, min_val: float) -> None:
        super().__init__()
        self.min_val = min_val

    def forward(self, x: Tensor) -> Tensor:
        """Return the larger of `x` and `min_val`."""
        return torch.clamp_min(x, self.min_val)
