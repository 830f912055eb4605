"""State dicts of parts whose learned values may be absent."""

from __future__ import annotations

import pickle
import re

import pytest
import torch
from torch import nn

from brevitas import config
from brevitas.core._state import LearnedValueModule


class _Part(LearnedValueModule):
    """Two learned values; ``learned`` says whether they are worth saving."""

    optional_keys = ("value", "offset")

    def __init__(self, learned: bool) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.ones(()))
        self.offset = nn.Parameter(torch.zeros(()))
        self.other = nn.Parameter(torch.zeros(()))
        self.learned, self.loaded = learned, 0

    @property
    def has_learned_value(self) -> bool:
        return self.learned

    def on_learned_value_loaded(self, local_metadata: dict[str, object]) -> None:
        self.loaded += 1


def test_placeholders_are_not_saved() -> None:
    assert list(nn.Sequential(_Part(False)).state_dict()) == ["0.other"]
    assert list(nn.Sequential(_Part(True)).state_dict()) == ["0.value", "0.offset", "0.other"]


def test_a_full_checkpoint_is_announced_once() -> None:
    part = _Part(False)
    part.load_state_dict(_Part(True).state_dict())
    assert part.loaded == 1


def test_absent_keys_are_reported() -> None:
    part = _Part(False)
    with pytest.raises(RuntimeError, match='"value", "offset"'):
        part.load_state_dict({"other": torch.ones(())})
    keys = part.load_state_dict({"other": torch.ones(()), "value": torch.ones(())}, strict=False)
    assert keys.missing_keys == ["offset"] and part.loaded == 0


def test_absent_keys_are_ignored_on_request() -> None:
    part = nn.Sequential(_Part(False))
    with config.overrides(IGNORE_MISSING_KEYS=True):
        part.load_state_dict({"0.other": torch.ones(())})
        with pytest.raises(RuntimeError, match='"0.other"'):
            part.load_state_dict({})


def test_the_error_about_absent_keys_ends_with_the_remedy() -> None:
    model = nn.Sequential(_Part(False), _Part(False), nn.Linear(1, 1))
    with pytest.raises(RuntimeError) as error:
        model.load_state_dict({"0.other": torch.ones(()), "2.weight": torch.ones(5, 5)})
    absent, mismatch, remedy = str(error.value).splitlines()[1:]
    assert re.findall(r'"(.*?)"', absent) == [
        "0.value", "0.offset", "1.value", "1.offset", "1.other", "2.bias"
    ]  # fmt: skip
    assert "size mismatch for 2.weight" in mismatch
    assert remedy.endswith(
        "`brevitas.config.IGNORE_MISSING_KEYS = True`, or under `BREVITAS_IGNORE_MISSING_KEYS=1`."
    )


def test_the_remedy_is_named_for_optional_keys_only() -> None:
    full = _Part(True).state_dict()
    del full["other"]
    with pytest.raises(RuntimeError, match=r'"other"\. $'):
        _Part(False).load_state_dict(full)


def test_a_load_that_is_not_strict_returns_the_absent_keys_and_raises_nothing() -> None:
    keys = _Part(False).load_state_dict({"other": torch.ones(())}, strict=False)
    assert keys.missing_keys == ["value", "offset"]
    assert f"{keys}" and pickle.loads(pickle.dumps(keys.missing_keys)) == ["value", "offset"]
