"""Layers for particular hardware targets. Layer: nn (L6)."""
