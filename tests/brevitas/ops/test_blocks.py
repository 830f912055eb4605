"""Blocks of a tensor cover it, whatever its layout."""

from __future__ import annotations

import pytest
import torch

from brevitas.ops import _blocks
from brevitas.ops._blocks import Blocks, layout_for_blocks, memory_like


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_blocks, "BLOCK", 8)


@pytest.mark.parametrize("channels", [(), (6, 1, 1), (5, 1), (4,), (6, 1, 4)])
def test_every_element_is_worked_on_once(channels: tuple[int, ...]) -> None:
    x, parameter = torch.randn(6, 5, 4), torch.randn(channels)
    layout = layout_for_blocks(x, parameter)
    assert layout is not None
    result = memory_like(x, layout)
    blocks = Blocks(layout, (x, result), (parameter, None))
    seen = 0
    for x_, result_, parameter_, nothing in blocks:
        assert nothing is None
        torch.mul(x_, parameter_, out=result_)
        seen += x_.numel()
    assert seen == x.numel() and torch.equal(result, x * parameter)
    assert blocks.by_row == (len(channels) == 3)


def test_small_tensors_are_not_split() -> None:
    assert layout_for_blocks(torch.zeros(8 * torch.get_num_threads())) is None


def test_other_devices_are_not_split() -> None:
    assert layout_for_blocks(torch.zeros(100, device="meta")) is None


@pytest.mark.parametrize("dims", [(0, 1, 2), (2, 0, 1)])
def test_memory_in_the_order_of_the_tensor(dims: tuple[int, ...]) -> None:
    x = torch.randn(6, 5, 4).permute(dims)
    layout = layout_for_blocks(x)
    assert layout is not None and memory_like(x, layout).stride() == x.stride()
    with_gaps = torch.randn(6, 10, 4)[:, ::2]
    layout = layout_for_blocks(with_gaps)
    assert layout is not None and memory_like(with_gaps, layout).is_contiguous()
