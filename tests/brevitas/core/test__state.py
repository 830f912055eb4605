"""State dicts of parts whose learned values may be absent."""

from __future__ import annotations

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
