"""The shape of a statistic, and its running average."""

from __future__ import annotations

import pytest
import torch

from brevitas import config
from brevitas.core.function_wrapper import OverTensorView
from brevitas.core.stats import AbsMax
from brevitas.core.stats.stats_wrapper import DEFAULT_MOMENTUM, SCALAR_SHAPE, _RuntimeStats, _Stats


@pytest.mark.parametrize("shape", [(5,), (5, 1), (1, 5, 1)])
def test_output_shape(shape: tuple[int, ...]) -> None:
    x = torch.randn(5, 7)
    assert torch.equal(_Stats(AbsMax(1), shape)(x), x.abs().amax(1).view(shape))


def test_default_shape_is_that_of_a_scalar() -> None:
    assert SCALAR_SHAPE == () and _Stats(AbsMax())(torch.randn(3)).shape == ()


def test_running_average() -> None:
    stats = _RuntimeStats(AbsMax(), SCALAR_SHAPE, OverTensorView())
    observations = [2.0, 3.0, 5.0]
    for observation in observations:
        assert stats(torch.tensor([observation])).item() == observation
    expected = observations[0]
    for observation in observations[1:]:
        expected = (1 - DEFAULT_MOMENTUM) * expected + DEFAULT_MOMENTUM * observation
    # two updates of three roundings each, of values below 8
    assert abs(stats.eval()(torch.zeros(1)).item() - expected) < 6 * 8 * 2**-24


def test_running_average_may_be_missing_if_allowed() -> None:
    stats = _RuntimeStats(AbsMax(), SCALAR_SHAPE, OverTensorView())
    assert list(stats.state_dict()) == ["running_stats"]
    with pytest.raises(RuntimeError, match="running_stats"):
        stats.load_state_dict({})
    with config.overrides(IGNORE_MISSING_KEYS=True):
        stats.load_state_dict({})
