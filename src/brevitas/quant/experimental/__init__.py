"""Older paths of the minifloat and group-wise quantizers. Layer: quant (L5)."""
