"""Running quantized models fast. Layer: export (L8)."""

from brevitas.export.inference.manager import InferenceManager, quant_inference_mode

__all__ = ["InferenceManager", "quant_inference_mode"]
