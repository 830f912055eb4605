"""The shape of a statistic."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import brevitas.nn as qnn
from brevitas.core.stats import AbsMax
from brevitas.core.stats.stats_wrapper import SCALAR_SHAPE, _Stats
from brevitas.quant.scaled_int import (
    Int8ActPerTensorFloat,
    Int8ActPerTensorFloatBatchQuant1d,
    Int8ActPerTensorFloatMSE,
)
from brevitas.quant.shifted_scaled_int import ShiftedUint8ActPerTensorFloatHQO


@pytest.mark.parametrize("shape", [(5,), (5, 1), (1, 5, 1)])
def test_output_shape(shape: tuple[int, ...]) -> None:
    x = torch.randn(5, 7)
    assert torch.equal(_Stats(AbsMax(1), shape)(x), x.abs().amax(1).view(shape))


def test_default_shape_is_that_of_a_scalar() -> None:
    assert SCALAR_SHAPE == () and _Stats(AbsMax())(torch.randn(3)).shape == ()


def test_a_scale_of_another_number_of_channels() -> None:
    layer = qnn.QuantIdentity(
        scaling_per_output_channel=True,
        per_channel_broadcastable_shape=(1, 3),
        scaling_stats_permute_dims=(1, 0),
    )
    with pytest.raises(ValueError, match=r"shape \(8,\) for a scale of shape \(1, 3\)"):
        layer(torch.zeros(2, 8))


@pytest.mark.parametrize(
    "quantizer",
    [
        Int8ActPerTensorFloat,
        Int8ActPerTensorFloatBatchQuant1d,
        Int8ActPerTensorFloatMSE,
        ShiftedUint8ActPerTensorFloatHQO,
    ],
)
def test_integers_are_real_values(quantizer: Any) -> None:
    x = torch.randint(-50, 50, (2, 3, 4), generator=torch.Generator().manual_seed(0))
    values = [qnn.QuantIdentity(act_quant=quantizer)(data) for data in (x, x.float())]
    assert values[0].dtype is torch.float32 and torch.equal(*values)
