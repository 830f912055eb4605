"""Rewriting and calibrating models. Layer: graph (L7)."""

from brevitas.graph.calibrate import (
    bias_correction_mode,
    calibration_mode,
    load_quant_model_mode,
    quantization_status_manager,
)

__all__ = [
    "bias_correction_mode",
    "calibration_mode",
    "load_quant_model_mode",
    "quantization_status_manager",
]
