"""Export to QONNX. Layer: export (L8)."""
