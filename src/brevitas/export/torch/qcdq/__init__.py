"""Export to TorchScript as quantize, clip, dequantize. Layer: export (L8)."""
