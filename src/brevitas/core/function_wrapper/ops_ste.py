"""Straight-through rounding and clamping as modules.

Layer: core (L3).
"""

from __future__ import annotations

from torch import Tensor, nn

from brevitas.function.ops_ste import (
    ceil_ste,
    dpu_round_ste,
    floor_ste,
    round_ste,
    round_to_zero_ste,
    scalar_clamp_min_ste,
    scalar_clamp_ste,
    scalar_signed_clamp_min_ste,
    tensor_clamp_ste,
    tensor_clamp_ste_,
)

__all__ = [
    "CeilSte",
    "DPURoundSte",
    "FloorSte",
    "InplaceTensorClampSte",
    "RoundSte",
    "RoundToZeroSte",
    "ScalarClampMinSte",
    "ScalarClampSte",
    "ScalarSignedClampMinSte",
    "TensorClampSte",
]


class RoundSte(nn.Module):
    """Round to the nearest integer, halves to even; gradient 1.

    Example:
        >>> RoundSte()(torch.tensor([1.5, -1.5]))
        tensor([ 2., -2.])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the integers nearest to `x`."""
        return round_ste(x)


class CeilSte(nn.Module):
    """Round up; gradient 1.

    Example:
        >>> CeilSte()(torch.tensor([1.5, -1.5]))
        tensor([ 2., -1.])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the smallest integers not below `x`."""
        return ceil_ste(x)


class FloorSte(nn.Module):
    """Round down; gradient 1.

    Example:
        >>> FloorSte()(torch.tensor([1.5, -1.5]))
        tensor([ 1., -2.])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the largest integers not above `x`."""
        return floor_ste(x)


class RoundToZeroSte(nn.Module):
    """Round towards zero; gradient 1.

    Example:
        >>> RoundToZeroSte()(torch.tensor([1.5, -1.5]))
        tensor([ 1., -1.])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` without its fractional part."""
        return round_to_zero_ste(x)


class DPURoundSte(nn.Module):
    """Round as the DPU accelerator does, negative halves upwards; gradient 1.

    Example:
        >>> DPURoundSte()(torch.tensor([1.5, -1.5]))
        tensor([ 2., -1.])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the integers nearest to `x`."""
        return dpu_round_ste(x)


class TensorClampSte(nn.Module):
    """Clamp to tensors; gradient 1 for `x` everywhere, 0 for the bounds.

    Example:
        >>> TensorClampSte()(torch.tensor([-3., 3.]), torch.tensor(-1.), torch.tensor(2.))
        tensor([-1.,  2.])
    """

    def forward(self, x: Tensor, min_val: Tensor, max_val: Tensor) -> Tensor:
        """Return `x` limited to `[min_val, max_val]`, which broadcast to `x`."""
        return tensor_clamp_ste(x, min_val, max_val)


class InplaceTensorClampSte(nn.Module):
    """Clamp to tensors in place; gradient 1 for `x` everywhere, 0 for the bounds.

    Example:
        >>> InplaceTensorClampSte()(torch.tensor([-3., 3.]), torch.tensor(-1.), torch.tensor(2.))
        tensor([-1.,  2.])
    """

    def forward(self, x: Tensor, min_val: Tensor, max_val: Tensor) -> Tensor:
        """Overwrite `x` with its values limited to `[min_val, max_val]` and return it."""
        return tensor_clamp_ste_(x, min_val, max_val)


class ScalarClampSte(nn.Module):
    """Clamp to two numbers; gradient 1 everywhere.

    Args:
        min_val: Lower bound.
        max_val: Upper bound.

    Example:
        >>> ScalarClampSte(-1., 2.)(torch.tensor([-3., 3.]))
        tensor([-1.,  2.])
    """

    def __init__(self, min_val: float, max_val: float) -> None:
        super().__init__()
        self.min_val = min_val
        self.max_val = max_val

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` limited to `[min_val, max_val]`."""
        return scalar_clamp_ste(x, self.min_val, self.max_val)


class ScalarClampMinSte(nn.Module):
    """Clamp from below to a number; gradient 1 everywhere.

    Args:
        min_val: Lower bound.

    Example:
        >>> ScalarClampMinSte(0.5)(torch.tensor([-3., 3.]))
        tensor([0.5000, 3.0000])
    """

    def __init__(self, min_val: float) -> None:
        super().__init__()
        self.min_val = min_val

    def forward(self, x: Tensor) -> Tensor:
        """Return the larger of `x` and `min_val`."""
        return scalar_clamp_min_ste(x, self.min_val)


class ScalarSignedClampMinSte(nn.Module):
    """Clamp the magnitude from below to a number, keep the sign; gradient 1 everywhere.

    Args:
        min_val: Smallest magnitude, not negative.

    Example:
        >>> ScalarSignedClampMinSte(0.5)(torch.tensor([-3., -0.1, 0.1]))
        tensor([-3.0000, -0.5000,  0.5000])
    """

    def __init__(self, min_val: float) -> None:
        super().__init__()
        self.min_val = min_val

    def forward(self, x: Tensor) -> Tensor:
        """Return `sign(x) * max(abs(x), min_val)`, zero counting as positive."""
        return scalar_signed_clamp_min_ste(x, self.min_val)
