"""Gradients of the fake quantization, whatever code finds them."""

from __future__ import annotations

import pytest
import torch

from brevitas.ops import _gradients
from brevitas.ops._operands import FakeQuantPlan, Operands

ALL = (True, True, True, False, False, False, False)


@pytest.mark.parametrize("rectifies", [False, True])
@pytest.mark.parametrize("shape", [(), (1, 4, 1)])
def test_both_codes_agree(
    shape: tuple[int, ...], rectifies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, grad = torch.randn(2, 6, 4, 5, dtype=torch.float64).unbind()
    scale = torch.full(shape, 0.4, dtype=torch.float64)
    operands = Operands(x, scale, None, 0.0, 3.0)
    plan = FakeQuantPlan(rectifies=rectifies)
    with torch.no_grad():
        in_blocks = _gradients.input_gradients(grad, operands, plan, ALL)
        monkeypatch.setattr(_gradients, "block_gradients", lambda *arguments: None)
        as_a_whole = _gradients.input_gradients(grad, operands, plan, ALL)
    assert torch.equal(in_blocks[0], as_a_whole[0])
    torch.testing.assert_close(in_blocks[1], as_a_whole[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    x, grad = torch.randn(2, 40, dtype=dtype).unbind()
    scale, plan = torch.tensor(0.3), FakeQuantPlan()
    with torch.no_grad():
        of_x, of_scale, *_ = _gradients.input_gradients(
            grad, Operands(x, scale, None, -2.0, 1.0), plan, ALL
        )
        wide = Operands(x.float(), scale, None, -2.0, 1.0)
        expected, expected_scale, *_ = _gradients.input_gradients(grad.float(), wide, plan, ALL)
    assert of_x.dtype is dtype and torch.equal(of_x.float(), expected)
    assert torch.equal(of_scale, expected_scale)
