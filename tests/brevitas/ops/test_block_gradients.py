"""Gradients found block by block against the same formula in plain PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from brevitas.ops import _blocks
from brevitas.ops._block_gradients import block_gradients
from brevitas.ops._operands import FakeQuantPlan, Operands

# Shape, shape of the scale: one for each layout, and one that no layout serves.
SHAPES = {
    "flat": ((40,), ()),
    "elements": ((40,), (40,)),
    "rows": ((6, 3, 5), (6, 1, 1)),
    "columns": ((9, 4), (4,)),
    "blocks": ((5, 4, 6), (4, 1)),
    "groups": ((5, 4, 6), (5, 1, 6)),
    "three places": ((5, 4, 6, 3), (5, 1, 6, 1)),
}
ALL = (True, True, True)


def reference(x: Tensor, scale: Tensor, zero_point: Tensor | None, plan: FakeQuantPlan) -> Tensor:
    """The quantizer spelled out, of unsigned integers of three bits."""
    x = F.relu(x) if plan.rectifies else x
    zero_point = torch.zeros_like(scale) if zero_point is None else zero_point
    shifted = x / scale + zero_point
    integer = shifted + (shifted.round() - shifted).detach()
    clamped = integer.clamp(0, 7)
    if plan.clamp_passes_gradient:
        clamped = integer + (clamped - integer).detach()
    return (clamped - zero_point) * scale


def operands(name: str, shifted: bool, dtype: torch.dtype = torch.float64) -> list[Tensor | None]:
    shape, channels = SHAPES[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=dtype)
    scale = torch.rand(channels, generator=generator, dtype=dtype) + 0.1
    return [x, scale, torch.full_like(scale, 3.0) if shifted else None]


@pytest.fixture(autouse=True)
def _as_in_a_backward_pass():
    with torch.no_grad():
        yield


@pytest.fixture(params=[16, 1 << 20], ids=["blocks", "whole"])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Elements of a block: far fewer than those of the tensors, or far more."""
    monkeypatch.setattr(_blocks, "BLOCK", request.param)
    return request.param


def assert_equal_to_reference(
    tensors: list[Tensor | None], plan: FakeQuantPlan, grad: Tensor | None = None
) -> None:
    leaves = [t if t is None else t.clone().requires_grad_() for t in tensors]
    with torch.enable_grad():
        y = reference(*leaves, plan)
    if grad is None:
        grad = torch.linspace(-1.0, 2.0, y.numel(), dtype=y.dtype).view(y.shape)
    y.backward(grad)
    found = block_gradients(grad, Operands(*tensors[:3], 0.0, 7.0), plan, ALL)
    assert found is not None
    for leaf, actual in zip(leaves, found, strict=True):
        if leaf is None:
            assert actual is None
        else:
            assert leaf.grad is not None and actual is not None
            # The same terms in another order, at most as many as elements, of at most 8 steps.
            close = {"rtol": 0.0, "atol": 8 * y.numel() * torch.finfo(y.dtype).eps}
            torch.testing.assert_close(actual, leaf.grad, **close)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("passes", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_formula(name: str, passes: bool, shifted: bool, block: int) -> None:
    plan = FakeQuantPlan(clamp_passes_gradient=passes)
    assert_equal_to_reference(operands(name, shifted), plan)


@pytest.mark.parametrize("name", ["flat", "rows", "columns"])
def test_rectified(name: str, block: int) -> None:
    x, *others = operands(name, False)
    assert x is not None
    x.view(-1)[:3] = torch.tensor([0.0, -0.0, -1e-3])  # rounds to zero, and is no part of relu
    assert_equal_to_reference([x, *others], FakeQuantPlan(rectifies=True))


def test_memory_formats(block: int) -> None:
    x, scale = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    channels_last = x.to(memory_format=torch.channels_last)
    with_gaps = torch.cat([x, x], 1)[:, ::2]
    for view in (channels_last, x.transpose(0, 3), with_gaps, x[:, :1].expand(x.shape)):
        assert_equal_to_reference([view, scale, None], FakeQuantPlan())
    expanded = torch.tensor(1.5, dtype=torch.float64).expand(x.shape)
    assert_equal_to_reference([channels_last, scale, None], FakeQuantPlan(), expanded)


def test_gradients_have_memory_of_their_own(block: int) -> None:
    x, scale, _ = operands("rows", False)
    assert x is not None and scale is not None
    grad = torch.ones_like(x)
    of_x, of_scale, _ = block_gradients(
        grad, Operands(x, scale, None, 0.0, 7.0), FakeQuantPlan(), (True, True, False)
    )
    assert of_x is not None and of_x._base is None and of_x.data_ptr() != grad.data_ptr()
    assert torch.equal(grad, torch.ones_like(x)) and of_scale.shape == scale.shape


def test_only_what_is_asked_for(block: int) -> None:
    x, scale, _ = operands("flat", False)
    made = Operands(x, scale, None, 0.0, 7.0)
    grad = torch.ones_like(made.x)
    of_x, of_scale, _ = block_gradients(grad, made, FakeQuantPlan(), (True, False, False))
    assert of_x is not None and of_scale is None
    of_x, of_scale, _ = block_gradients(grad, made, FakeQuantPlan(), (False, True, False))
    assert of_x is None and of_scale is not None


@pytest.mark.parametrize("needs", [(True, True, False), (True, False, False)])
def test_not_a_number_is_left_to_others(needs: tuple[bool, ...], block: int) -> None:
    x, scale, _ = operands("flat", False)
    assert x is not None and scale is not None
    x[-1] = float("nan")
    made = Operands(x, scale, None, 0.0, 7.0)
    assert block_gradients(torch.ones_like(x), made, FakeQuantPlan(), needs) is None


def test_what_is_left_to_others() -> None:
    x, scale, _ = operands("flat", False)
    assert x is not None and scale is not None
    grad, plan, made = torch.ones_like(x), FakeQuantPlan(), Operands(x, scale, None, 0.0, 7.0)
    assert block_gradients(grad, made, plan, ALL) is not None
    with torch.enable_grad():
        assert block_gradients(grad, made, plan, ALL) is None
    assert block_gradients(grad, made, FakeQuantPlan("DPU"), ALL) is None
    assert block_gradients(grad, made._replace(upper=torch.tensor(7.0)), plan, ALL) is None
    assert block_gradients(grad, made._replace(output_scale=scale), plan, ALL) is None
    meta = Operands(x.to("meta"), scale.to("meta"), None, 0.0, 7.0)
    assert block_gradients(grad.to("meta"), meta, plan, ALL) is None
