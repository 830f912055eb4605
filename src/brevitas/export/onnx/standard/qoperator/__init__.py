"""Export to standard ONNX operators that compute on integers. Layer: export (L8)."""
