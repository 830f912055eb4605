"""Export to standard ONNX as quantize, clip, dequantize. Layer: export (L8)."""
