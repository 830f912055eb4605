"""The TorchScript registry is left alone."""

from __future__ import annotations

from brevitas.utils.jit_utils import clear_class_registry


def test_clear_class_registry():
    assert clear_class_registry() is None
