"""Export to standard ONNX operators. Layer: export (L8)."""

from __future__ import annotations

from abc import ABC
from typing import ClassVar

from brevitas.export.onnx.manager import ONNXBaseManager

__all__ = ["DEFAULT_OPSET", "StdONNXBaseManager"]

# The oldest version that the exporter writes without converting, so that most runtimes read it.
DEFAULT_OPSET = 18


class StdONNXBaseManager(ONNXBaseManager, ABC):
    """Base of the targets that use standard operators only."""

    default_opset: ClassVar[int] = DEFAULT_OPSET
