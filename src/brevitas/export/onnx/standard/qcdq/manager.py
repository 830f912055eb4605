"""Export to QuantizeLinear, Clip, DequantizeLinear, which ONNX Runtime runs. Layer: export (L8)."""

from __future__ import annotations

from typing import Any, ClassVar

from brevitas.export.common.session import ExportSession
from brevitas.export.onnx.standard.manager import StdONNXBaseManager
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


# The name from when two exporters existed side by side.
StdQCDQONNXDynamoManager = StdQCDQONNXManager
