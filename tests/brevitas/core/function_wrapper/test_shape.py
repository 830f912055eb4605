"""Views over which statistics are computed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from brevitas.core.function_wrapper.shape import (
    DynamicOverSubChannelBlockView,
    OverBatchOverOutputChannelView,
    OverBatchOverTensorView,
    OverOutputChannelView,
    OverOutputFeaturesView,
    OverSubChannelBlockView,
    OverTensorView,
    PermuteDims,
    StatsInputViewShapeImpl,
)

X = torch.arange(120.0).reshape(2, 3, 4, 5)


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (OverTensorView(), X.flatten()),
        (OverOutputChannelView(), X.reshape(2, 60)),
        (OverOutputChannelView((1, 0, 2, 3)), X.transpose(0, 1).reshape(3, 40)),
        (OverBatchOverTensorView(), X.reshape(2, 60)),
        (OverBatchOverTensorView((1, 0, 2, 3)), X.transpose(0, 1).reshape(3, 40)),
        (OverBatchOverOutputChannelView(), X.reshape(2, 3, 20)),
        (OverBatchOverOutputChannelView((0, 3, 1, 2)), X.permute(0, 3, 1, 2).reshape(2, 5, 12)),
        (OverOutputFeaturesView(), X.reshape(24, 5)),
        (OverOutputFeaturesView((0, 2, 3, 1)), X.permute(0, 2, 3, 1).reshape(40, 3)),
    ],
)
def test_views(view: nn.Module, expected: torch.Tensor) -> None:
    assert torch.equal(view(X), expected)
    assert not view.state_dict()


def test_permute_gives_contiguous_memory() -> None:
    y = PermuteDims((3, 0, 1, 2))(X)
    assert y.shape == (5, 2, 3, 4) and y.is_contiguous()


@pytest.mark.parametrize("group_size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("dim", [0, 1, 2, 3, -1, -3])
def test_groups_hold_the_elements_in_order_and_zeros(group_size: int, dim: int) -> None:
    y = DynamicOverSubChannelBlockView(group_size, dim)(X)
    axis = dim % 4
    groups = -(-X.shape[axis] // group_size)
    assert y.shape == (*X.shape[:axis], groups, group_size, *X.shape[axis + 1 :])
    flat = y.flatten(axis, axis + 1)
    assert torch.equal(flat.narrow(axis, 0, X.shape[axis]), X)
    assert not flat.narrow(axis, X.shape[axis], flat.shape[axis] - X.shape[axis]).any()
    static = OverSubChannelBlockView(tuple(y.shape), group_size, dim)
    assert torch.equal(static(X), y)


@pytest.mark.parametrize("group_size", [0, -4, 2.5, True, "4"])
def test_wrong_group_size(group_size: object) -> None:
    with pytest.raises(ValueError, match="group_size=.*int >= 1"):
        DynamicOverSubChannelBlockView(group_size, 0)


def test_names_of_views() -> None:
    assert StatsInputViewShapeImpl.OVER_TENSOR is OverTensorView
    assert StatsInputViewShapeImpl.OVER_SUBCHANNEL_BLOCK is OverSubChannelBlockView


def test_another_number_of_dimensions_than_reordered() -> None:
    with pytest.raises(ValueError, match=r"\(2, 8\): expected 3 dimensions.*permute_dims"):
        PermuteDims((1, 0, 2))(torch.zeros(2, 8))
