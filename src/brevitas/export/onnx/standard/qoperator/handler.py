"""Handlers whose nodes a graph of integer operators can absorb. Layer: export (L8)."""

from __future__ import annotations

from torch import Tensor

from brevitas.export.common.spec import ExportError, QuantSpec
from brevitas.export.onnx.standard.function import dequantize_linear
from brevitas.export.onnx.standard.qcdq.function import Storage
from brevitas.export.onnx.standard.qcdq.handler import QCDQActHandler, QCDQWeightHandler

__all__ = ["QOpActHandler", "QOpWeightHandler"]


class QOpActHandler(QCDQActHandler):
    """An activation of at most 8 bits at one scale, which integer operators read and write."""

    def plan(self, spec: QuantSpec) -> Storage:
        """Accept what QCDQ does, short of 16 bits and of a scale per channel."""
        if spec.bits > 8:
            raise ExportError(
                f"bit_width={spec.bits}: integer operators read and write at most 8 bits; use 8, "
                f"or a QCDQ export. Layer: {spec.name}"
            )
        plan = super().plan(spec)
        if plan.grid.axis is not None:
            raise ExportError(
                f"scale of shape {tuple(spec.scale.shape)}: integer operators take one scale for "
                "an activation; set scaling_per_output_channel=False, or use a QCDQ export. "
                f"Layer: {spec.name}"
            )
        return plan


class QOpWeightHandler(QCDQWeightHandler):
    """A weight as 8-bit integers, whatever smaller width it was quantized to."""

    def plan(self, spec: QuantSpec) -> Storage:
        """Accept up to 8 bits."""
        if spec.bits > 8:
            raise ExportError(
                f"bit_width={spec.bits}: integer operators hold weights of at most 8 bits; set "
                f"weight_bit_width to 8 or less, or use a QCDQ export. Layer: {spec.name}"
            )
        return super().plan(spec)

    def node(self, x: Tensor, data: Tensor | None, plan: Storage) -> Tensor:
        """Write the node; the integers lie within their width as they are."""
        assert data is not None
        return dequantize_linear(data, plan.grid, self.session).to(x.dtype)
