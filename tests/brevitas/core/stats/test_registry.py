"""The list of statistics."""

from __future__ import annotations

from torch import nn

from brevitas.core.stats import AbsMax, SignedAbsMax
from brevitas.core.stats.stats_op import SIGNEDNESS_STATS, register_stats_implementation


def test_signedness() -> None:
    assert SIGNEDNESS_STATS[SignedAbsMax] is True
    assert SIGNEDNESS_STATS[AbsMax] is False


def test_a_statistic_of_the_user_is_listed() -> None:
    @register_stats_implementation()
    class Own(nn.Module):
        pass

    assert SIGNEDNESS_STATS.pop(Own) is False
