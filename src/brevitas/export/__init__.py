"""Exporting quantized models to other programs. Layer: export (L8)."""

from __future__ import annotations

from brevitas.export.onnx.debug import enable_debug
from brevitas.export.onnx.qonnx.manager import QONNXDynamoManager, QONNXManager
from brevitas.export.onnx.standard.qcdq.manager import (
    StdQCDQONNXDynamoManager,
    StdQCDQONNXManager,
)
from brevitas.export.onnx.standard.qoperator.manager import StdQOpONNXManager
from brevitas.export.torch.qcdq.manager import TorchQCDQManager
from brevitas.export.torch.qoperator.manager import TorchQOpManager

__all__ = [
    "QONNXDynamoManager",
    "QONNXManager",
    "StdQCDQONNXDynamoManager",
    "StdQCDQONNXManager",
    "StdQOpONNXManager",
    "TorchQCDQManager",
    "TorchQOpManager",
    "enable_debug",
    "export_brevitas_onnx",
    "export_onnx_qcdq",
    "export_onnx_qop",
    "export_qonnx",
    "export_torch_qcdq",
    "export_torch_qop",
]

export_qonnx = QONNXManager.export
export_onnx_qcdq = StdQCDQONNXManager.export
export_onnx_qop = StdQOpONNXManager.export
export_torch_qcdq = TorchQCDQManager.export
export_torch_qop = TorchQOpManager.export
# The oldest name: the format of its files became QONNX.
export_brevitas_onnx = QONNXManager.export
