"""Run exported graphs in the programs that they are meant for."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor


def run_onnxruntime(model: Any, *inputs: Tensor) -> Tensor:
    """Run a graph in ONNX Runtime as written, and check it as ONNX Runtime optimizes it.

    The optimizations, which are on by default, replace layers between quantizers by integer ones.
    They may round a sum on the edge between two integers the other way, and so move an output by
    one step.
    """
    onnxruntime = pytest.importorskip("onnxruntime")
    levels = onnxruntime.GraphOptimizationLevel
    as_written = _run_at(levels.ORT_DISABLE_ALL, model, inputs)
    optimized = _run_at(levels.ORT_ENABLE_ALL, model, inputs)
    # Beside the step, the order in which a product is summed up: some ulps of the largest term.
    slack = 1e-5 * max(1.0, float(as_written.abs().max()))
    torch.testing.assert_close(
        optimized, as_written, rtol=0, atol=1.001 * _largest_step(model) + slack
    )
    return as_written


def _run_at(level: Any, model: Any, inputs: tuple[Tensor, ...]) -> Tensor:
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [item.name for item in session.get_inputs()]
    feed = {name: x.detach().numpy() for name, x in zip(names, inputs, strict=True)}
    return torch.from_numpy(session.run(None, feed)[0])


def _largest_step(model: Any) -> float:
    """Return the largest constant scale that an activation is quantized to, or 0."""
    constants = initializers(model)
    scales = [node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    return max((float(constants[name].max()) for name in scales if name in constants), default=0.0)


def run_qonnx(model: Any, *inputs: Tensor, clean_up: bool = False) -> Tensor:
    """Run a graph in QONNX's own executor, after its clean-up transformations if asked."""
    onnx_exec = pytest.importorskip("qonnx.core.onnx_exec")
    wrapper = pytest.importorskip("qonnx.core.modelwrapper")
    cleanup = pytest.importorskip("qonnx.util.cleanup")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = wrapper.ModelWrapper(model)
        if clean_up:
            wrapped = cleanup.cleanup_model(wrapped)
        names = [item.name for item in wrapped.graph.input]
        feed = {name: x.detach().numpy() for name, x in zip(names, inputs, strict=True)}
        outputs = onnx_exec.execute_onnx(wrapped, feed)
    return torch.from_numpy(outputs[wrapped.graph.output[0].name])


def operators(model: Any) -> list[str]:
    """Name the operators of a graph in order, those of a custom domain with it."""
    return [
        f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        for node in model.graph.node
    ]


def initializers(model: Any) -> dict[str, Tensor]:
    """Return the constants of a graph by name."""
    numpy_helper = pytest.importorskip("onnx.numpy_helper")
    return {
        item.name: torch.from_numpy(numpy_helper.to_array(item).copy())
        for item in model.graph.initializer
    }
