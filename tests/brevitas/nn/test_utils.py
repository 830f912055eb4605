"""Comparison of memory and renaming of keys."""

from __future__ import annotations

import torch

from brevitas.nn.utils import (
    check_tensors_same_ptr,
    rename_state_dict_by_postfix,
    rename_state_dict_by_prefix,
)


def test_same_storage():
    x = torch.zeros(4)
    assert check_tensors_same_ptr([x, x.view(2, 2)])
    assert not check_tensors_same_ptr([x, x.clone()])


def test_rename():
    state = {"a.w": 1, "ab.w": 2, "a.b": 3}
    rename_state_dict_by_prefix("a.", "new.", state)
    assert state == {"new.w": 1, "ab.w": 2, "new.b": 3}
    rename_state_dict_by_postfix(".w", ".weight", state)
    assert state == {"new.weight": 1, "ab.weight": 2, "new.b": 3}
