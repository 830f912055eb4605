"""Handlers that write QONNX nodes. Layer: export (L8)."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from brevitas.export.common.rounding import ROUNDING, is_faithful, round_as
from brevitas.export.common.spec import ExportError, QuantSpec
from brevitas.export.onnx.handler import (
    ActHandler,
    ConstantHandler,
    DynamicActHandler,
    TruncHandler,
)
from brevitas.export.onnx.qonnx.function import quant, trunc, trunc_keeping_scale
from brevitas.proxy.parameter_quant import (
    BiasQuantProxyFromInjector,
    WeightQuantProxyFromInjector,
)
from brevitas.proxy.runtime_quant import (
    ActQuantProxyFromInjector,
    ClampQuantProxyFromInjector,
    DynamicActQuantProxyFromInjector,
)

__all__ = [
    "QONNXActHandler",
    "QONNXBiasHandler",
    "QONNXDynamicActHandler",
    "QONNXTruncHandler",
    "QONNXWeightHandler",
]


def _stated(spec: QuantSpec) -> QuantSpec:
    """Return a spec that a node can state, or raise ExportError."""
    if spec.bits == 1 and spec.signed and not spec.is_binary:
        raise ExportError(
            "bit_width=1: QONNX reads a signed integer of one bit as -1 and 1, not as -1 and 0; "
            "use bit_width=2, signed=False for 0 and 1, or quant_type=QuantType.BINARY for -1 "
            f"and 1. Layer: {spec.name}"
        )
    return spec


class QONNXActHandler(ActHandler):
    """An activation, or a clamped accumulator, as one ``Quant`` or ``BipolarQuant`` node."""

    handled_layer = (ActQuantProxyFromInjector, ClampQuantProxyFromInjector)

    def plan(self, spec: QuantSpec) -> QuantSpec:
        """Accept an integer spec whose rounding QONNX can state."""
        round_as(spec.rounding_mode, spec.name)
        return _stated(spec)

    def node(self, x: Tensor, plan: QuantSpec) -> Tensor:
        """Write the node."""
        return quant(x, plan, self.session)


class QONNXDynamicActHandler(DynamicActHandler):
    """An activation as a ``Quant`` node that reads a scale computed in the graph."""

    handled_layer = DynamicActQuantProxyFromInjector

    def plan(self, spec: QuantSpec) -> QuantSpec:
        """Accept an integer spec whose rounding QONNX can state."""
        round_as(spec.rounding_mode, spec.name)
        return _stated(spec)

    def dynamic_node(self, x: Tensor, spec: QuantSpec, plan: QuantSpec) -> Tensor:
        """Write the node."""
        return quant(x, spec, self.session)


class QONNXWeightHandler(ConstantHandler):
    """A weight as float data and one ``Quant`` or ``BipolarQuant`` node."""

    handled_layer = WeightQuantProxyFromInjector

    def plan(self, spec: QuantSpec) -> QuantSpec:
        """Accept any integer spec, whatever its rounding."""
        return _stated(spec)

    def constant(
        self, x: Tensor, value: Tensor, plan: QuantSpec
    ) -> tuple[Tensor | None, QuantSpec]:
        """Keep the parameter where the node rounds as the quantizer did.

        Otherwise (learned rounding, a pre-scale) the file holds the quantized values, which any
        rounding to nearest gives back.
        """
        if plan.rounding_mode.upper() in ROUNDING and self.is_restated(x, value, plan):
            return None, plan
        nearest = replace(plan, rounding_mode="ROUND")
        if not is_faithful(value, value, nearest):
            raise ExportError(
                "the quantized values are not whole multiples of the scale within the bit width; "
                f"use a quantizer with uniform steps. Layer: {plan.name}"
            )
        return value.detach().clone(), nearest

    def node(self, x: Tensor, data: Tensor | None, plan: QuantSpec) -> Tensor:
        """Write the node."""
        return quant(x if data is None else data, plan, self.session)


class QONNXBiasHandler(QONNXWeightHandler):
    """A bias as float data and one ``Quant`` node, at the scale that its layer accumulates in."""

    handled_layer = BiasQuantProxyFromInjector


class QONNXTruncHandler(TruncHandler):
    """A truncation as one ``Trunc`` node, of the version that means what the quantizer does."""

    def plan(self, source: QuantSpec, target: QuantSpec) -> tuple[QuantSpec, QuantSpec]:
        """Accept any pair of specs whose rounding QONNX can state."""
        round_as(target.rounding_mode, target.name)
        return source, target

    def node(self, x: Tensor, plan: tuple[QuantSpec, QuantSpec]) -> Tensor:
        """Write the node."""
        write = trunc_keeping_scale if self.keeps_scale else trunc
        return write(x, *plan, self.session)
