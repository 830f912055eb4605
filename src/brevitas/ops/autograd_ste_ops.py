"""Straight-through estimators: non-differentiable maths with the gradient of a simpler function.

Layer: ops (L1).

Each class pairs a forward (round, clamp, sign, ...) with the gradient that training uses in its
place; each `*_ste_impl` is the callable of one class. All of them work under `torch.func`
(except the in-place clamp under `vmap`), can be differentiated twice, and are traced by
`torch.compile` and `torch.export`. Users call the functions of `brevitas.function.ops_ste`.

Reference: Bengio, Leonard and Courville, "Estimating or Propagating Gradients Through Stochastic
Neurons for Conditional Computation", 2013.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from brevitas.function.ops import (
    binary_sign,
    dpu_round,
    round_to_zero,
    tensor_clamp,
    tensor_clamp_,
)
from brevitas.utils.autograd import DirectFunction

__all__ = [
    "ScalarClampSteFn",
    "ScalarClampMinSteFn",
    "ScalarSignedClampMinSteFn",
    "TensorClampSteFn",
    "InplaceTensorClampSteFn",
    "RoundToZeroSteFn",
    "CeilSteFn",
    "FloorSteFn",
    "BinarySignSteFn",
    "TernarySignSteFn",
    "RoundSteFn",
    "AbsBinarySignGradFn",
    "DPURoundSteFn",
    "round_ste_impl",
    "binary_sign_ste_impl",
    "ternary_sign_ste_impl",
    "floor_ste_impl",
    "ceil_ste_impl",
    "round_to_zero_ste_impl",
    "scalar_clamp_min_ste_impl",
    "scalar_clamp_ste_impl",
    "scalar_signed_clamp_min_ste_impl",
    "tensor_clamp_ste_impl",
    "tensor_clamp_ste_impl_",
    "abs_binary_sign_grad_impl",
    "dpu_round_ste_impl",
]


class _StraightThrough(DirectFunction):
    """Base: a function of one tensor and constants; its gradient is that of the identity."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        """Save nothing: the gradient does not depend on the input."""

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the incoming gradient."""
        return grad_y


class _StraightThroughClamp(_StraightThrough):
    """Base: a clamp between two bounds, which get no gradient."""

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, None, None]:
        """Return the incoming gradient for `x`, none for the bounds."""
        return grad_y, None, None


class _StraightThroughClampMin(_StraightThrough):
    """Base: a clamp with one bound, which gets no gradient."""

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, None]:
        """Return the incoming gradient for `x`, none for the bound."""
        return grad_y, None


class ScalarClampSteFn(_StraightThroughClamp):
    """Clamp to two numbers; the gradient passes unchanged, also outside of the range."""

    @staticmethod
    def forward(x: Tensor, min_val: float, max_val: float) -> Tensor:
        """Return `x` limited to `[min_val, max_val]`."""
        return torch.clamp(x, min_val, max_val)


class ScalarClampMinSteFn(_StraightThroughClampMin):
    """Clamp from below to a number; the gradient passes unchanged."""

    @staticmethod
    def forward(x: Tensor, min_val: float) -> Tensor:
        """Return the larger of `x` and `min_val`."""
        return torch.clamp_min(x, min_val)


class ScalarSignedClampMinSteFn(_StraightThroughClampMin):
    """Clamp the magnitude from below to a number; sign and gradient pass unchanged."""

    @staticmethod
    def forward(x: Tensor, min_val: float) -> Tensor:
        """Return `sign(x) * max(abs(x), min_val)` with `sign(0) = 1`."""
        return torch.where(x >= 0, torch.clamp_min(x, min_val), torch.clamp_max(x, -min_val))


class TensorClampSteFn(_StraightThroughClamp):
    """Clamp to two tensors; the gradient passes unchanged to `x` and not at all to the bounds."""

    @staticmethod
    def forward(x: Tensor, min_val: Tensor, max_val: Tensor) -> Tensor:
        """Return `x` limited to `[min_val, max_val]`, elementwise."""
        return tensor_clamp(x, min_val, max_val)


class InplaceTensorClampSteFn(_StraightThroughClamp):
    """Clamp `x` to two tensors in place; the gradient passes unchanged to `x`."""

    @staticmethod
    def forward(x: Tensor, min_val: Tensor, max_val: Tensor) -> Tensor:
        """Overwrite `x` with its values limited to `[min_val, max_val]` and return it."""
        tensor_clamp_(x, min_val, max_val)
        return x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        """Tell autograd that the first argument was overwritten."""
        ctx.mark_dirty(inputs[0])


class RoundToZeroSteFn(_StraightThrough):
    """Round towards zero; the gradient passes unchanged."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Return `x` without its fractional part."""
        return round_to_zero(x)


class CeilSteFn(_StraightThrough):
    """Round up; the gradient passes unchanged."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Return the smallest integer not below `x`."""
        return torch.ceil(x)


class FloorSteFn(_StraightThrough):
    """Round down; the gradient passes unchanged."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Return the largest integer not above `x`."""
        return torch.floor(x)


class BinarySignSteFn(_StraightThrough):
    """Sign with `sign(0) = 1`; the gradient passes unchanged."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Return 1 where `x >= 0`, else -1."""
        return binary_sign(x)


class TernarySignSteFn(_StraightThrough):
    """Sign with `sign(0) = 0`; the gradient passes unchanged."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Return -1, 0 or 1."""
        return torch.sign(x)


class RoundSteFn(_StraightThrough):
    """Round to the nearest integer, halves to even; the gradient passes unchanged."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Return the integer nearest to `x`."""
        return torch.round(x)


class DPURoundSteFn(_StraightThrough):
    """Round as the DPU accelerator does; the gradient passes unchanged."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Return the nearest integer, halves as in `brevitas.function.ops.dpu_round`."""
        return dpu_round(x)


class AbsBinarySignGradFn(_StraightThrough):
    """Absolute value whose gradient at zero is 1, so that a value at zero can still move."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Return the absolute value of `x`."""
        return torch.abs(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        """Save the input, whose sign is the gradient."""
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> Tensor:
        """Return the incoming gradient where `x >= 0`, else its negative."""
        (x,) = ctx.saved_tensors
        return torch.where(x >= 0, grad_y, -grad_y)


round_ste_impl = RoundSteFn.apply
binary_sign_ste_impl = BinarySignSteFn.apply
ternary_sign_ste_impl = TernarySignSteFn.apply
floor_ste_impl = FloorSteFn.apply
ceil_ste_impl = CeilSteFn.apply
round_to_zero_ste_impl = RoundToZeroSteFn.apply
scalar_clamp_min_ste_impl = ScalarClampMinSteFn.apply
scalar_clamp_ste_impl = ScalarClampSteFn.apply
scalar_signed_clamp_min_ste_impl = ScalarSignedClampMinSteFn.apply
tensor_clamp_ste_impl = TensorClampSteFn.apply
tensor_clamp_ste_impl_ = InplaceTensorClampSteFn.apply
abs_binary_sign_grad_impl = AbsBinarySignGradFn.apply
dpu_round_ste_impl = DPURoundSteFn.apply
