"""Export to standard ONNX operators. Layer: export (L8)."""
