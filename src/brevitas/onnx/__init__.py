"""The path that exports had in early versions; its home is `brevitas.export`. Layer: L8."""

from brevitas.export import enable_debug, export_brevitas_onnx, export_onnx_qcdq, export_qonnx

__all__ = ["enable_debug", "export_brevitas_onnx", "export_onnx_qcdq", "export_qonnx"]
