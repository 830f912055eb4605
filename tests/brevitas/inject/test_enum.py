"""The enums have the members that clients use, and nothing else is exported."""

from __future__ import annotations

import copy
import pickle
from enum import Enum

import pytest

from brevitas.inject import enum as enums

MEMBERS = {
    "BitWidthImplType": "CONST PARAMETER STATEFUL_CONST",
    "FloatToIntImplType": "ROUND CEIL FLOOR ROUND_TO_ZERO DPU LEARNED_ROUND STOCHASTIC_ROUND",
    "LearnedRoundImplType": "HARD_SIGMOID SIGMOID IDENTITY",
    "QuantType": "BINARY TERNARY INT FP",
    "RestrictValueType": "FP SIGNED_FP LOG_FP INT POWER_OF_TWO",
    "ScalingImplType": "HE CONST STATS AFFINE_STATS PARAMETER PARAMETER_FROM_STATS",
    "ScalingPerOutputType": "TENSOR CHANNEL GROUP",
    "StatsOp": "MAX AVE MAX_AVE MEAN_SIGMA_STD MEAN_LEARN_SIGMA_STD PERCENTILE MIN_MAX "
    "PERCENTILE_INTERVAL SIGNED_MAX",
    "TruncScalingImplType": "MSB WRAPPER",
}


def test_exports_the_enums_only():
    assert sorted(enums.__all__) == sorted(MEMBERS)


@pytest.mark.parametrize("name", sorted(MEMBERS))
def test_members(name):
    enum = getattr(enums, name)
    assert issubclass(enum, Enum)
    assert [member.name for member in enum] == MEMBERS[name].split()
    for member in enum:
        assert member == member.value == member.name
        assert enum(member.value) is member
        assert pickle.loads(pickle.dumps(member)) is copy.deepcopy(member) is member
