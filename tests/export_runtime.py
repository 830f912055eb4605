"""Run exported graphs in the programs that they are meant for."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor


def run_onnxruntime(model: Any, *inputs: Tensor) -> Tensor:
    """Run a graph in ONNX Runtime as written, without its optimizations, which may round anew."""
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [item.name for item in session.get_inputs()]
    feed = {name: x.detach().numpy() for name, x in zip(names, inputs, strict=True)}
    return torch.from_numpy(session.run(None, feed)[0])


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
