"""Checkpoints of running statistics load into learned scales."""

from __future__ import annotations

import pytest
import torch

import brevitas.nn as qnn
from brevitas.core.restrict_val import FloatRestrictValue
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


@pytest.mark.parametrize("learned_first", [False, True])
def test_a_learned_value_is_not_overwritten(learned_first):
    convert = ConvertRuntimeStatsToParameter(FloatRestrictValue())
    scaling = "a.fused_activation_quant_proxy.tensor_quant.scaling_impl."
    entries = [(scaling + "runtime_stats.running_stats", 4.0), (scaling + "value", 2.0)]
    state = {key: torch.tensor(v) for key, v in (entries[::-1] if learned_first else entries)}
    convert("a.", state)
    assert list(state) == [scaling + "value"] and state[scaling + "value"] == 2.0


def test_a_learned_value_is_loaded_beside_running_statistics():
    source, target = qnn.QuantIdentity(collect_stats_steps=1), qnn.QuantIdentity()
    source(torch.tensor([-4.0, 2.0]))
    state = source.state_dict()
    key = next(key for key in state if key.endswith("scaling_impl.value"))
    state[key.replace("value", "runtime_stats.running_stats")] = torch.tensor(9.0)
    target.load_state_dict(state)
    torch.testing.assert_close(target.act_quant.scale().detach(), torch.tensor(4.0 / 128))
