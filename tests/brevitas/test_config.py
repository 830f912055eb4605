"""Switches: environment variables, assignment, and overrides that are always undone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from brevitas import config


def in_new_process(expression, **environment):
    source = str(Path(config.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", f"import brevitas.config as config; print({expression})"],
        capture_output=True,
        text=True,
        env={**os.environ, **environment, "PYTHONPATH": source},
    )


def test_strtobool():
    for word in ("y", "yes", "t", "true", "on", "1", "TRUE", "On"):
        assert config.strtobool(word) is True
    for word in ("n", "no", "f", "false", "off", "0", "False"):
        assert config.strtobool(word) is False
    with pytest.raises(ValueError, match=r"invalid truth value 'maybe': expected one of y, yes"):
        config.strtobool("maybe")


def test_env_to_bool(monkeypatch):
    monkeypatch.delenv("BREVITAS_TEST", raising=False)
    assert config.env_to_bool("BREVITAS_TEST", True) is True
    monkeypatch.setenv("BREVITAS_TEST", "off")
    assert config.env_to_bool("BREVITAS_TEST", True) is False
    monkeypatch.setenv("BREVITAS_TEST", "bad")
    with pytest.raises(ValueError, match="environment variable BREVITAS_TEST: invalid truth value"):
        config.env_to_bool("BREVITAS_TEST", True)


def test_environment_is_read_at_import():
    done = in_new_process(
        "config.JIT_ENABLED, config.VERBOSE, config.LOGGING_LEVEL, config.IGNORE_MISSING_KEYS, "
        "config.REINIT_ON_STATE_DICT_LOAD, config.NATIVE_STE_BACKEND_ENABLED",
        BREVITAS_JIT="1",
        BREVITAS_VERBOSE="yes",
        BREVITAS_LOGGING_LEVEL="info",
        BREVITAS_IGNORE_MISSING_KEYS="1",
        BREVITAS_REINIT_ON_STATE_DICT_LOAD="0",
        BREVITAS_NATIVE_STE_BACKEND="true",
    )
    assert done.stdout.strip() == "True True INFO True False True", done.stderr


def test_wrong_environment_is_refused_at_import():
    done = in_new_process("0", BREVITAS_LOGGING_LEVEL="loud")
    assert "BREVITAS_LOGGING_LEVEL: invalid level 'loud': expected one of CRITICAL" in done.stderr


def test_overrides_restore_also_after_an_error():
    before = config.VERBOSE, config.LOGGING_LEVEL
    with pytest.raises(RuntimeError):
        with config.overrides(VERBOSE=not before[0], LOGGING_LEVEL="DEBUG"):
            assert (config.VERBOSE, config.LOGGING_LEVEL) == (not before[0], "DEBUG")
            raise RuntimeError
    assert (config.VERBOSE, config.LOGGING_LEVEL) == before


def test_overrides_nest_and_keep_assignments_before_them(monkeypatch):
    monkeypatch.setattr(config, "VERBOSE", True)
    with config.overrides(VERBOSE=False):
        with config.overrides(VERBOSE=True):
            assert config.VERBOSE is True
        assert config.VERBOSE is False
    assert config.VERBOSE is True


def test_overrides_set_the_context_variable():
    assert config.IGNORE_PROXY_KEYS.get() is False
    with config.overrides(IGNORE_PROXY_KEYS=True):
        assert config.IGNORE_PROXY_KEYS.get() is True
    assert config.IGNORE_PROXY_KEYS.get() is False


@pytest.mark.parametrize(
    "flags, error, message",
    [
        ({"VERBOS": True}, ValueError, "Did you mean 'VERBOSE'"),
        ({"os": True}, ValueError, "no such flag"),
        ({"VERBOSE": 1}, TypeError, "VERBOSE=1: expected a bool"),
        ({"LOGGING_LEVEL": "loud"}, ValueError, "expected one of CRITICAL"),
    ],
)
def test_wrong_overrides_change_nothing(flags, error, message):
    before = config.JIT_ENABLED
    with pytest.raises(error, match=message):
        with config.overrides(JIT_ENABLED=not before, **flags):
            pass
    assert config.JIT_ENABLED is before
