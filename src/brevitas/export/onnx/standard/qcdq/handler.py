"""Handlers that write QuantizeLinear, Clip and DequantizeLinear. Layer: export (L8)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from brevitas.export.common.rounding import round_as
from brevitas.export.common.spec import ExportError, QuantSpec
from brevitas.export.onnx.handler import (
    ActHandler,
    ConstantHandler,
    DynamicActHandler,
    ONNXBaseHandler,
    TruncHandler,
)
from brevitas.export.onnx.standard.function import dequantize_linear
from brevitas.export.onnx.standard.qcdq.function import (
    Storage,
    cdq,
    qcdq,
    store,
    store_constant,
)
from brevitas.proxy.parameter_quant import (
    BiasQuantProxyFromInjector,
    WeightQuantProxyFromInjector,
)
from brevitas.proxy.runtime_quant import (
    ActQuantProxyFromInjector,
    ClampQuantProxyFromInjector,
    DynamicActQuantProxyFromInjector,
)
from brevitas.utils.torch_utils import widened

__all__ = [
    "QCDQActHandler",
    "QCDQBiasHandler",
    "QCDQDynamicActHandler",
    "QCDQTruncHandler",
    "QCDQWeightHandler",
]


class QCDQActHandler(ActHandler):
    """An activation, or a clamped accumulator, as QuantizeLinear, DequantizeLinear.

    A Clip stands between them where the integers are short of 8 bits.
    """

    handled_layer = (ActQuantProxyFromInjector, ClampQuantProxyFromInjector)

    def plan(self, spec: QuantSpec) -> Storage:
        """Accept up to 8 bits, or 16 from opset 21 on, rounded to nearest."""
        return _shared(store(spec, self.opset), self)

    def node(self, x: Tensor, plan: Storage) -> Tensor:
        """Write the nodes."""
        return qcdq(x, plan, self.session)


class QCDQDynamicActHandler(DynamicActHandler):
    """An activation whose scale, one for the tensor, is computed in the graph."""

    handled_layer = DynamicActQuantProxyFromInjector

    def plan(self, spec: QuantSpec) -> Storage:
        """Accept what a fixed activation may be, with one scale per tensor."""
        plan = _shared(store(spec, self.opset), self)
        if plan.grid.axis is not None:
            raise ExportError(
                f"scale of shape {tuple(spec.scale.shape)}: QCDQ computes one scale per tensor; "
                f"use export_qonnx. Layer: {spec.name}"
            )
        return plan

    def dynamic_node(self, x: Tensor, spec: QuantSpec, plan: Storage) -> Tensor:
        """Write the nodes."""
        scale = spec.scale.reshape(())
        zero_point = spec.zero_point.reshape(()).to(plan.grid.zero_point.dtype)
        grid = replace(plan.grid, scale=scale, zero_point=zero_point)
        return qcdq(x, replace(plan, grid=grid), self.session)


class QCDQWeightHandler(ConstantHandler):
    """A weight as integers, Clip and DequantizeLinear."""

    handled_layer = WeightQuantProxyFromInjector

    def plan(self, spec: QuantSpec) -> Storage:
        """Accept up to 8 bits, or 32 where there is no zero point."""
        keeps_float = self.session is not None and self.session.weight_quantize_node
        plan = store(spec, self.opset) if keeps_float else store_constant(spec, self.opset)
        return _shared(plan, self)

    def constant(self, x: Tensor, value: Tensor, plan: Storage) -> tuple[Tensor | None, Storage]:
        """Store the integers of the quantizer, whatever its rounding was."""
        if self.session is not None and self.session.weight_quantize_node:
            restated = self.is_restated(x, value, plan.spec)
            return (None if restated else value.detach().clone()), plan
        return integers_of(value, plan), plan

    def node(self, x: Tensor, data: Tensor | None, plan: Storage) -> Tensor:
        """Write the nodes."""
        if self.session is not None and self.session.weight_quantize_node:
            return qcdq(x if data is None else data, plan, self.session)
        assert data is not None
        return cdq(data, plan, x.dtype, self.session)


class QCDQBiasHandler(ConstantHandler):
    """A bias as 32-bit integers and DequantizeLinear."""

    handled_layer = BiasQuantProxyFromInjector

    def plan(self, spec: QuantSpec) -> Storage:
        """Accept up to 32 bits without a zero point."""
        return _shared(store_constant(spec, self.opset, is_bias=True), self)

    def constant(self, x: Tensor, value: Tensor, plan: Storage) -> tuple[Tensor | None, Storage]:
        """Store the integers of the quantizer."""
        return integers_of(value, plan), plan

    def node(self, x: Tensor, data: Tensor | None, plan: Storage) -> Tensor:
        """Write the node."""
        assert data is not None
        return dequantize_linear(data, plan.grid, self.session).to(x.dtype)


@dataclass(frozen=True, eq=False)
class Truncation:
    """One truncation, as its nodes compute it.

    Args:
        source: the integers that come in.
        rounding: how the dropped bits are rounded.
        steps: how many steps of ``source`` make one step of the result.
        storage: how the integers that go out lie in a file.
    """

    source: QuantSpec
    rounding: Callable[[Tensor], Tensor]
    steps: Tensor
    storage: Storage


class QCDQTruncHandler(TruncHandler):
    """A truncation as the division of integers, QuantizeLinear, DequantizeLinear.

    The integers of an accumulator are found first: a sum in floating point is off by a few
    roundings, which would push a result halfway between two integers to either side.
    """

    def plan(self, source: QuantSpec, target: QuantSpec) -> Truncation:
        """Accept results of up to 8 bits, or 16 from opset 21 on."""
        rounding = round_as(target.rounding_mode, target.name)
        steps = target.scale / source.scale
        if self.keeps_scale:
            steps = torch.exp2(source.bit_width - target.bit_width)
        # What QuantizeLinear reads is rounded already.
        storage = store(replace(target, rounding_mode="ROUND"), self.opset)
        return Truncation(source, rounding, steps, _shared(storage, self))

    def node(self, x: Tensor, plan: Truncation) -> Tensor:
        """Write the nodes."""
        source, target = plan.source, plan.storage.spec
        integers = torch.round(widened(x) / source.scale + source.zero_point)
        kept = plan.rounding(integers / plan.steps)
        value = (kept - target.zero_point) * target.scale
        return qcdq(value, plan.storage, self.session).to(x.dtype)


def _shared(plan: Storage, handler: ONNXBaseHandler) -> Storage:
    return plan if handler.session is None else plan.shared(handler.session)


def integers_of(value: Tensor, plan: Storage) -> Tensor:
    """Read the stored integers off a quantized constant.

    Args:
        value: whole multiples of the scale, shifted by the zero point.
        plan: how they are stored.

    Returns:
        Integers of the shape of ``value``.

    Raises:
        ExportError: where ``value`` is not made of such multiples.
    """
    spec = plan.spec
    dtype = plan.grid.zero_point.dtype
    wide = value.detach().to(torch.float64) / spec.scale.to(torch.float64)
    wide = wide + (0 if spec.is_binary else spec.zero_point.to(torch.float64))
    integers = torch.round(wide)
    # A rounded product is off by half an ulp, a fraction of its magnitude in steps.
    slack = 4 * torch.finfo(value.dtype).eps
    off = (wide - integers).abs() > 1e-3 + integers.abs() * slack
    if bool((off | (integers < spec.minimum) | (integers > spec.maximum)).any()):
        raise ExportError(
            "the quantized values are not whole multiples of the scale within the bit width; use "
            f"a quantizer with uniform steps, or export_qonnx. Layer: {spec.name}"
        )
    limits = torch.iinfo(dtype)
    return torch.clamp(integers, limits.min, limits.max).to(dtype)
