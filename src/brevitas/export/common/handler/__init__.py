"""Handlers: what stands in for a quantizer during an export. Layer: export (L8)."""
