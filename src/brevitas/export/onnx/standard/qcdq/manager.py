"""Export to QuantizeLinear, Clip, DequantizeLinear, which ONNX Runtime runs. Layer: export (L8)."""

from __future__ import annotations

from typing import Any, ClassVar

from brevitas.export.common.session import ExportSession
from brevitas.export.onnx.standard.function import INT16_OPSET
from brevitas.export.onnx.standard.manager import StdONNXBaseManager
from brevitas.export.onnx.standard.qcdq._unsigned import with_unsigned_moves
from brevitas.export.onnx.standard.qcdq.handler import (
    QCDQActHandler,
    QCDQBiasHandler,
    QCDQDynamicActHandler,
    QCDQTruncHandler,
    QCDQWeightHandler,
)

__all__ = ["StdQCDQONNXDynamoManager", "StdQCDQONNXManager"]


class StdQCDQONNXManager(StdONNXBaseManager):
    """Exports to standard ONNX in the QCDQ style.

    Takes one option of its own: ``export_weight_q_node=True`` keeps float weights in the file,
    each followed by a QuantizeLinear; by default the file holds integers.

    From opset 21 on, signed 8-bit activations that a Reshape or another operator moves are stored
    as unsigned integers, 128 further up: ONNX Runtime does not load the signed ones.
    """

    target_name = "ONNX QCDQ"
    option_names: ClassVar[tuple[str, ...]] = ("export_weight_q_node",)
    handlers = [
        QCDQWeightHandler,
        QCDQBiasHandler,
        QCDQActHandler,
        QCDQDynamicActHandler,
        QCDQTruncHandler,
    ]

    @classmethod
    def new_session(cls, options: dict[str, Any]) -> ExportSession:
        """Start an export with the storage of weights that the caller chose."""
        keeps_float = bool(options.pop("export_weight_q_node", False))
        session = super().new_session(options)
        session.weight_quantize_node = keeps_float
        return session

    @classmethod
    def rewrite(cls, model: Any, name: str) -> Any:
        """Return the graph in the form that ONNX Runtime loads."""
        opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
        return model if opset < INT16_OPSET else with_unsigned_moves(model)


# The name from when two exporters existed side by side.
StdQCDQONNXDynamoManager = StdQCDQONNXManager
