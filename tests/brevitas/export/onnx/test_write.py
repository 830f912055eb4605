"""Files are whole or not there."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch

from brevitas.export.onnx import _write

onnx = pytest.importorskip("onnx")


def make_model() -> Any:
    helper = onnx.helper
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    weight = onnx.numpy_helper.from_array(torch.ones(1024).numpy(), "w")
    node = helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph([node], "main", [value], [output], [weight])
    return helper.make_model(graph)


def test_the_file_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    model = make_model()
    _write.write_model(model, path)
    assert onnx.load(path) == model
    assert [item.name for item in tmp_path.iterdir()] == ["model.onnx"]


def test_a_file_that_is_open_is_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    model, stream = make_model(), io.BytesIO()
    _write.write_model(model, stream)
    assert stream.getvalue() == model.SerializeToString()
    monkeypatch.setattr(_write, "LARGEST_MESSAGE", 16)
    with pytest.raises(ValueError, match="too many for one message; give a path"):
        _write.write_model(model, stream)


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    def fail(model: Any, target: Path, **options: Any) -> None:
        Path(target).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(onnx, "save_model", fail)
    with pytest.raises(OSError, match="disk full"):
        _write.write_model(make_model(), path)
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["model.onnx"]


def test_large_weights_go_to_a_second_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_write, "LARGEST_MESSAGE", 16)
    path = tmp_path / "model.onnx"
    _write.write_model(make_model(), str(path))
    assert sorted(item.name for item in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    (weight,) = onnx.load(path).graph.initializer
    assert onnx.numpy_helper.to_array(weight).sum() == 1024
