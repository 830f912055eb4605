"""Helpers without quantization knowledge. Layer: utils (L0)."""
