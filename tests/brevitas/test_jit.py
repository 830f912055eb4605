"""The TorchScript names are there and do nothing."""

from __future__ import annotations

import pytest
from torch import nn

from brevitas import config, jit


def function(x):
    return x


def test_names():
    assert jit.ScriptModule is nn.Module
    assert jit.Attribute(3, int) == 3
    assert jit._disabled(function) is function
    for decorator in (jit.script, jit.script_method, jit.ignore):
        assert decorator(function) is function


def test_jit_enabled_follows_the_flag():
    with config.overrides(JIT_ENABLED=True):
        assert jit.JIT_ENABLED is True
    with config.overrides(JIT_ENABLED=False):
        assert jit.JIT_ENABLED is False


def test_unknown_name():
    with pytest.raises(AttributeError, match="nothing"):
        jit.nothing  # noqa: B018
