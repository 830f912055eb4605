"""Export to QONNX: integers of any width as ``Quant`` nodes. Layer: export (L8)."""

from __future__ import annotations

from typing import ClassVar

from brevitas.export.onnx.manager import ONNXBaseManager
from brevitas.export.onnx.qonnx.function import QONNX_DOMAIN_STRING, QONNX_DOMAIN_VERSION
from brevitas.export.onnx.qonnx.handler import (
    QONNXActHandler,
    QONNXBiasHandler,
    QONNXDynamicActHandler,
    QONNXTruncHandler,
    QONNXWeightHandler,
)

__all__ = [
    "QONNX_DOMAIN_STRING",
    "QONNX_DOMAIN_VERSION",
    "QONNXDynamoManager",
    "QONNXManager",
]


class QONNXManager(ONNXBaseManager):
    """Exports to QONNX, the format that FINN and hls4ml read."""

    target_name = "QONNX"
    custom_versions: ClassVar[dict[str, int]] = {QONNX_DOMAIN_STRING: QONNX_DOMAIN_VERSION}
    handlers = [
        QONNXWeightHandler,
        QONNXBiasHandler,
        QONNXActHandler,
        QONNXDynamicActHandler,
        QONNXTruncHandler,
    ]


# The name from when two exporters existed side by side.
QONNXDynamoManager = QONNXManager
