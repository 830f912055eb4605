"""Straight-through modules: each equals its function and is idempotent."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from brevitas.core.function_wrapper import ops_ste as modules
from brevitas.function import ops_ste

ROUNDINGS = {
    modules.RoundSte: ops_ste.round_ste,
    modules.CeilSte: ops_ste.ceil_ste,
    modules.FloorSte: ops_ste.floor_ste,
    modules.RoundToZeroSte: ops_ste.round_to_zero_ste,
    modules.DPURoundSte: ops_ste.dpu_round_ste,
}
X = torch.arange(-16, 17) / 4.0


@pytest.mark.parametrize("module", ROUNDINGS)
def test_rounding(module: type[nn.Module]) -> None:
    y = module()(X)
    assert torch.equal(y, ROUNDINGS[module](X))
    assert torch.equal(module()(y), y)
    assert torch.equal(y, y.trunc())


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (modules.ScalarClampSte(-1.0, 2.0), X.clamp(-1.0, 2.0)),
        (modules.ScalarClampMinSte(0.5), X.clamp_min(0.5)),
        (modules.ScalarSignedClampMinSte(0.5), torch.where(X >= 0, 1, -1) * X.abs().clamp_min(0.5)),
    ],
)
def test_scalar_clamps(module: nn.Module, expected: torch.Tensor) -> None:
    x = X.clone().requires_grad_()
    y = module(x)
    y.sum().backward()
    assert torch.equal(y, expected)
    assert torch.equal(module(y), y)
    assert torch.equal(x.grad, torch.ones_like(X))


@pytest.mark.parametrize("module", [modules.TensorClampSte, modules.InplaceTensorClampSte])
def test_tensor_clamps(module: type[nn.Module]) -> None:
    x = X.clone().requires_grad_()
    y = module()(x * 1, torch.tensor(-1.0), torch.tensor(2.0))
    y.sum().backward()
    assert torch.equal(y, X.clamp(-1.0, 2.0))
    assert torch.equal(x.grad, torch.ones_like(X))
