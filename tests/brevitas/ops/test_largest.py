"""The largest magnitude and its gradient against PyTorch's own reductions."""

from __future__ import annotations

import pytest
import torch

from brevitas.ops import _largest
from brevitas.ops._largest import add_at_largest, largest_magnitude


def weight(ties: int, shape: tuple[int, ...] = (6, 4, 5)) -> torch.Tensor:
    """Values of which some, positive and negative, have the largest magnitude."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).clamp(-2.0, 2.0)
    places = torch.arange(ties) * (x.numel() // max(ties, 1))
    x.view(-1)[places] = 3.0 * (1.0 - 2.0 * (places % 2))
    return x


@pytest.fixture(params=[1, 1 << 20], ids=["large", "small"])
def large(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Elements from which a tensor counts as large."""
    monkeypatch.setattr(_largest, "_LARGE", request.param)
    return request.param


@pytest.mark.parametrize("ties", [1, 2, 5])
@pytest.mark.parametrize("shape", [(6, 4, 5), (120,), (120, 1)])
def test_of_a_whole_tensor(ties: int, shape: tuple[int, ...], large: int) -> None:
    x = weight(ties, shape).requires_grad_()
    x.abs().amax().mul(0.7).backward()
    largest, grad_x = largest_magnitude(x.detach(), by_row=False), torch.zeros_like(x)
    assert largest.magnitude.item() == 3.0
    add_at_largest(grad_x, x.detach(), largest, torch.tensor(0.7))
    # A share of one gradient is rounded once.
    torch.testing.assert_close(grad_x, x.grad, rtol=1e-6, atol=0.0)


def test_of_rows(large: int) -> None:
    x = weight(3).requires_grad_()
    expected = x.view(6, -1).abs().max(1, keepdim=True)[0]
    grad = torch.linspace(-1.0, 1.0, 6).view(6, 1)
    expected.backward(grad)
    largest, grad_x = largest_magnitude(x.detach(), by_row=True), torch.zeros_like(x)
    assert torch.equal(largest.magnitude, expected)
    add_at_largest(grad_x, x.detach(), largest, grad)
    assert torch.equal(grad_x, x.grad)


@pytest.mark.parametrize("by_row", [False, True])
def test_zeros_have_no_gradient(by_row: bool, large: int) -> None:
    x = torch.zeros(3, 4)
    largest, grad_x = largest_magnitude(x, by_row), torch.zeros_like(x)
    add_at_largest(grad_x, x, largest, torch.ones_like(largest.magnitude))
    assert torch.equal(grad_x, x)


def test_it_is_added(large: int) -> None:
    x, grad_x = weight(1), torch.ones(6, 4, 5)
    add_at_largest(grad_x, x, largest_magnitude(x, False), torch.tensor(2.0))
    assert grad_x.view(-1)[0].item() == 3.0 and grad_x.sum().item() == x.numel() + 2


@pytest.mark.parametrize("by_row", [False, True])
def test_not_a_number(by_row: bool, large: int) -> None:
    x = weight(1)
    x[0, 0, 0] = float("nan")
    assert largest_magnitude(x, by_row).magnitude.view(-1)[0].isnan()
