"""Elementwise functions as modules."""

from __future__ import annotations

import torch

from brevitas.core.function_wrapper.misc import (
    Abs,
    Identity,
    InplaceAbs,
    InplaceLogTwo,
    LogTwo,
    PowerOfTwo,
)


def test_values() -> None:
    x = torch.rand(16) + 0.1
    assert Identity()(x) is x
    assert torch.equal(Abs()(-x), x)
    assert torch.equal(LogTwo()(x), torch.log2(x))
    # two roundings of a logarithm below 4 in magnitude
    assert torch.allclose(PowerOfTwo()(LogTwo()(x)), x, rtol=8 * 2**-23)


def test_inplace() -> None:
    x = torch.tensor([-8.0])
    assert InplaceAbs()(x) is x and x.item() == 8.0
    assert InplaceLogTwo()(x) is x and x.item() == 3.0


def test_gradient_of_abs_is_one_at_zero() -> None:
    x = torch.tensor([-1.0, 0.0, 1.0], requires_grad=True)
    Abs()(x).sum().backward()
    assert x.grad.tolist() == [-1.0, 1.0, 1.0]
