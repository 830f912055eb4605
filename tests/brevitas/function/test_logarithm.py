"""Logarithms at powers of two and beside them, and their gradient."""

from __future__ import annotations

import pytest
import torch

from brevitas.function._logarithm import log_two


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("beside", [None, 0.0, float("inf")])
def test_logarithms_stay_on_their_side_of_an_integer(
    dtype: torch.dtype, beside: float | None
) -> None:
    exponents = {torch.float32: (-126, 128), torch.float64: (-1022, 1024)}[dtype]
    x = torch.tensor([2.0**e for e in range(*exponents)], dtype=dtype)
    if beside is not None:
        x = torch.nextafter(x, torch.tensor(beside, dtype=dtype))
    mantissa, above = torch.frexp(x)
    floor = (above - 1).to(dtype)
    ceil = torch.where(mantissa == 0.5, floor, floor + 1)
    logarithm = log_two(x)
    assert torch.equal(logarithm.floor(), floor) and torch.equal(logarithm.ceil(), ceil)
    # No further than to the next number but one.
    unit = torch.finfo(dtype).eps * floor.abs().clamp_min(1.0) * 2
    assert ((logarithm - torch.log2(x)).abs() <= unit).all()


def test_logarithms_of_what_has_none() -> None:
    x = torch.tensor([0.0, float("inf"), float("nan"), -1.0])
    assert torch.equal(log_two(x)[:2], torch.tensor([-float("inf"), float("inf")]))
    assert log_two(x)[2:].isnan().all()


def test_the_gradient_of_a_logarithm() -> None:
    below = torch.nextafter(torch.tensor(1024.0), torch.tensor(0.0))
    x = torch.stack([torch.tensor(3.0), torch.tensor(8.0), below]).requires_grad_()
    log_two(x).sum().backward()
    torch.testing.assert_close(x.grad, 1 / (x.detach() * torch.log(torch.tensor(2.0))))
