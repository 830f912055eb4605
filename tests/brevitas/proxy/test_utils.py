"""Checkpoints of running statistics load into learned scales."""

from __future__ import annotations

import pytest
import torch

import brevitas.nn as qnn
from brevitas.inject.enum import RestrictValueType, ScalingImplType
from brevitas.proxy.utils import ConvertRuntimeStatsToParameter
from brevitas.quant import Int8ActPerTensorFixedPoint, Int8ActPerTensorFloat

RuntimeScale = Int8ActPerTensorFloat.let(scaling_impl_type=ScalingImplType.STATS)


@pytest.mark.parametrize(
    "act_quant",
    [
        Int8ActPerTensorFloat,
        Int8ActPerTensorFloat.let(restrict_scaling_type=RestrictValueType.LOG_FP),
        Int8ActPerTensorFixedPoint,
    ],
)
def test_running_statistics_become_the_learned_scale(act_quant):
    source = qnn.QuantIdentity(act_quant=RuntimeScale)
    source(torch.tensor([-4.0, 2.0]))
    target = qnn.QuantIdentity(act_quant=act_quant)
    target.load_state_dict(source.state_dict())
    torch.testing.assert_close(target.act_quant.scale().detach(), torch.tensor(4.0 / 128))
    assert target.act_quant.scale().requires_grad


def test_other_keys_stay():
    convert = ConvertRuntimeStatsToParameter(None)
    state = {"a.weight": torch.zeros(1)}
    convert("a.", state)
    assert list(state) == ["a.weight"]
