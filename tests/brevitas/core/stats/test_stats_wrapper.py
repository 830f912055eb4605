"""The shape of a statistic."""

from __future__ import annotations

import pytest
import torch

from brevitas.core.stats import AbsMax
from brevitas.core.stats.stats_wrapper import SCALAR_SHAPE, _Stats


@pytest.mark.parametrize("shape", [(5,), (5, 1), (1, 5, 1)])
def test_output_shape(shape: tuple[int, ...]) -> None:
    x = torch.randn(5, 7)
    assert torch.equal(_Stats(AbsMax(1), shape)(x), x.abs().amax(1).view(shape))


def test_default_shape_is_that_of_a_scalar() -> None:
    assert SCALAR_SHAPE == () and _Stats(AbsMax())(torch.randn(3)).shape == ()
