"""Exporting quantized models to other programs. Layer: export (L8)."""

from __future__ import annotations

from brevitas.export.onnx.debug import enable_debug
from brevitas.export.onnx.qonnx.manager import QONNXDynamoManager, QONNXManager
from brevitas.export.onnx.standard.qcdq.manager import (
    StdQCDQONNXDynamoManager,
    StdQCDQONNXManager,
)
from brevitas.export.torch.qcdq.manager import TorchQCDQManager

__all__ = [
    "QONNXDynamoManager",
    "QONNXManager",
    "StdQCDQONNXDynamoManager",
    "StdQCDQONNXManager",
    "TorchQCDQManager",
    "enable_debug",
    "export_brevitas_onnx",
    "export_onnx_qcdq",
    "export_qonnx",
    "export_torch_qcdq",
]

export_qonnx = QONNXManager.export
export_onnx_qcdq = StdQCDQONNXManager.export
export_torch_qcdq = TorchQCDQManager.export
# The oldest name: the format of its files became QONNX.
export_brevitas_onnx = QONNXManager.export
