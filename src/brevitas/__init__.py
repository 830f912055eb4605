"""Quantization of neural networks in PyTorch, while training and after it. Layer: L0."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from brevitas import config
from brevitas._compat import torch_version

__all__ = ["NATIVE_STE_BACKEND_LOADED", "__version__", "config", "pkg_dir", "torch_version"]

try:
    __version__ = version("brevitas")
except PackageNotFoundError:  # the source folder is on the path without being installed
    __version__ = "0+unknown"

pkg_dir: str = str(Path(__file__).parent)

# Straight-through estimators are written in Python: there is no compiled backend to load.
NATIVE_STE_BACKEND_LOADED: bool = False
