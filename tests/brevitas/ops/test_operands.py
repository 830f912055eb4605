"""Operands of a fake quantization: limits that are numbers, or tensors."""

from __future__ import annotations

import pytest
import torch

from brevitas.ops._operands import Operands, clamp_by_tensors


@pytest.mark.parametrize("lower", [-2.0, torch.tensor(-2.0)])
@pytest.mark.parametrize("upper", [1.0, torch.tensor(1.0, dtype=torch.float64)])
def test_clamp(lower: float | torch.Tensor, upper: float | torch.Tensor) -> None:
    integer = torch.tensor([-5.0, -1.0, 4.0, float("nan"), float("inf")])
    clamped = Operands(integer, torch.ones(()), None, lower, upper).clamp(integer)
    assert clamped.dtype is integer.dtype
    expected = torch.tensor([-2.0, -1.0, 1.0, float("nan"), 1.0])
    assert torch.equal(clamped.nan_to_num(9.0), expected.nan_to_num(9.0))


def test_limits_per_channel() -> None:
    integer = torch.full((2, 3), 9.0)
    upper = torch.tensor([[1.0], [7.0]])
    assert torch.equal(clamp_by_tensors(integer, -1.0, upper), upper.expand(2, 3))
