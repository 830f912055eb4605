"""A trial is seen inside of it, by its own thread, and nowhere else."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from brevitas.core._trial import current_trial, on_trial, trying


def test_a_trial_is_seen_inside_and_ends_also_with_an_error() -> None:
    statistic, candidate = nn.Identity(), torch.tensor(0.5)
    with pytest.raises(ZeroDivisionError), trying(statistic, candidate):
        trial = current_trial()
        assert trial is not None and trial.statistic is statistic
        assert trial.candidate is candidate and on_trial()
        raise ZeroDivisionError
    assert current_trial() is None and not on_trial()


def test_trials_nest() -> None:
    outer, inner = nn.Identity(), nn.Identity()
    with trying(outer, torch.tensor(1.0)):
        with trying(inner, torch.tensor(2.0)):
            assert current_trial().statistic is inner
        assert current_trial().statistic is outer


def test_other_threads_do_not_see_it() -> None:
    seen: list[bool] = []
    with trying(nn.Identity(), torch.tensor(1.0)):
        thread = threading.Thread(target=lambda: seen.append(on_trial()))
        thread.start()
        thread.join()
    assert seen == [False]
