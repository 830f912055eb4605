"""Scales of groups of an input: formula, statistics, restrictions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from brevitas.core.function_wrapper import FloorSte
from brevitas.core.function_wrapper.shape import DynamicOverSubChannelBlockView
from brevitas.core.restrict_val import PowerOfTwoRestrictValue
from brevitas.core.scaling import RuntimeDynamicGroupStatsScaling
from brevitas.core.stats import AbsAve, AbsMax, AbsMinMax, AbsPercentile, MeanSigmaStd

THRESHOLD = torch.tensor(7.0)


def scaling(size: int, dim: int, statistic: nn.Module, **further: Any) -> nn.Module:
    view = DynamicOverSubChannelBlockView(size, dim)
    further = {"scaling_min_val": None, **further}
    return RuntimeDynamicGroupStatsScaling(size, dim, view, statistic, **further)


def in_groups(x: Tensor, size: int, dim: int) -> Tensor:
    """Groups, whose elements are last."""
    moved = x.movedim(dim, -1)
    padded = nn.functional.pad(moved, [0, -moved.shape[-1] % size])
    return padded.reshape(*moved.shape[:-1], -1, size)


@pytest.mark.parametrize("size", [1, 3, 4, 16])
@pytest.mark.parametrize("dim", [0, 1, -1, -2])
def test_largest_magnitude_of_each_group(size: int, dim: int) -> None:
    x = torch.randn(6, 10, 5)
    elements = dim if dim < 0 else dim + 1
    scale = scaling(size, dim, AbsMax(elements, keepdim=True))(x, THRESHOLD)
    expected = in_groups(x, size, dim).abs().amax(-1) / THRESHOLD
    assert torch.equal(scale.squeeze(elements).movedim(dim, -1), expected)


@pytest.mark.parametrize(
    ("statistic", "reference"),
    [
        (AbsAve, lambda g: g.abs().mean(-1)),
        (AbsMinMax, lambda g: g.amax(-1) - g.amin(-1).clamp_max(0)),
        (lambda d: AbsPercentile(100.0, d), lambda g: g.abs().amax(-1)),
        (lambda d: MeanSigmaStd(2.0, d), lambda g: g.abs().mean(-1) + 2 * g.abs().std(-1)),
    ],
)
@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 3, 8)])
def test_statistics_that_leave_their_dimension_out(
    statistic: Any, reference: Any, shape: tuple[int, ...]
) -> None:
    x = torch.randn(shape)
    scale = scaling(4, -1, statistic(-1))(x, THRESHOLD)
    expected = reference(in_groups(x, 4, -1)).unsqueeze(-1) / THRESHOLD
    torch.testing.assert_close(scale, expected)


def test_each_input_has_its_own_scale_in_training_and_evaluation() -> None:
    group = scaling(2, -1, AbsMax(-1, keepdim=True))
    for training in (True, False):
        for factor in (1.0, 5.0):
            scale = group.train(training)(factor * torch.tensor([1.0, -2.0, 3.0]), None)
            assert torch.equal(scale.flatten(), factor * torch.tensor([2.0, 3.0]))
    assert not group.state_dict()


def test_powers_of_two_and_the_smallest_value() -> None:
    restriction = PowerOfTwoRestrictValue(FloorSte())
    declared = {"restrict_scaling_impl": restriction, "scaling_min_val": 0.25}
    group = scaling(2, -1, AbsMax(-1, keepdim=True), **declared)
    x = torch.tensor([3.9, 0.0, 0.0, 0.0, -0.3, 0.1], requires_grad=True)
    scale = group(x, torch.tensor(8.0))
    assert torch.equal(scale.flatten(), torch.tensor([0.25, 0.03125, 0.03125]))
    scale.sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_another_restriction_of_the_threshold() -> None:
    restriction = PowerOfTwoRestrictValue(FloorSte())
    group = scaling(2, -1, AbsMax(-1, keepdim=True), restrict_threshold_impl=restriction)
    assert torch.equal(group(torch.tensor([3.0, 1.0]), THRESHOLD), torch.tensor([[3.0 / 4]]))
