"""Export to ONNX. Layer: export (L8)."""
