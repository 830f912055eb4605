"""Export to the quantized operators of PyTorch. Layer: export (L8)."""
