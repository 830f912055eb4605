"""Run an exported file in a runtime: arrays in, arrays out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.infer_shapes import InferShapes


def run_onnxruntime(file: Path, images: np.ndarray) -> np.ndarray:
    """Run a QCDQ file: standard ONNX operators only, any ONNX runtime reads it."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def run_qonnx(file: Path, images: np.ndarray) -> np.ndarray:
    """Run a QONNX file, whose `Quant` nodes the reference executor of that format knows."""
    model = ModelWrapper(str(file)).transform(InferShapes())
    outputs = execute_onnx(model, {model.graph.input[0].name: images})
    return outputs[model.graph.output[0].name]
