"""Defaults of the targets in standard ONNX."""

from __future__ import annotations

from brevitas.export.onnx.manager import OLDEST_WRITTEN_OPSET
from brevitas.export.onnx.standard.manager import DEFAULT_OPSET, StdONNXBaseManager


def test_the_default_needs_no_conversion() -> None:
    assert StdONNXBaseManager.default_opset == DEFAULT_OPSET >= OLDEST_WRITTEN_OPSET
    assert StdONNXBaseManager.new_session({}).opset == DEFAULT_OPSET
    assert StdONNXBaseManager.new_session({"opset_version": 21}).opset == 21
