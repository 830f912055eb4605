"""TorchScript housekeeping that clients call; nothing is scripted here. Layer: utils (L0)."""

from __future__ import annotations


def clear_class_registry() -> None:
    """Do nothing: no part of the library registers classes with TorchScript."""
