"""What the handlers of both ONNX formats share: observe real values once, then write nodes.

Layer: export (L8).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from brevitas.core.function_wrapper.stochastic_round import StochasticRoundSte
from brevitas.export.common.handler.base import BaseHandler
from brevitas.export.common.quantizer import quantizer_of
from brevitas.export.common.rounding import is_faithful
from brevitas.export.common.session import ExportSession
from brevitas.export.common.spec import ExportError, QuantSpec
from brevitas.proxy.parameter_quant import DecoupledWeightQuantProxyFromInjector
from brevitas.proxy.runtime_quant import TruncQuantProxyFromInjector

__all__ = [
    "ActHandler",
    "ConstantHandler",
    "DynamicActHandler",
    "ONNXBaseHandler",
    "TruncHandler",
    "joins",
]

Quantized = tuple[Tensor, ...]

DEFAULT_OPSET = 20

UNFAITHFUL = (
    "the quantizer computes something else than its scale, zero point, bit width and rounding "
    "say, which no node represents; use a quantizer with uniform steps. Layer: {}"
)


def intern(spec: QuantSpec, session: ExportSession | None) -> QuantSpec:
    """Return the same spec over the tensors that the whole export shares."""
    if session is None:
        return spec
    return replace(
        spec,
        scale=session.shared(spec.scale),
        zero_point=session.shared(spec.zero_point),
        bit_width=session.shared(spec.bit_width),
    )


def is_tracing() -> bool:
    """Whether values are symbolic now, in a trace for any target."""
    in_jit = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    return torch.compiler.is_exporting() or in_jit


class ONNXBaseHandler(BaseHandler):
    """A handler that sees real values once, and writes nodes when the model is traced.

    It is called with the arguments of the quantizer it stands for, and returns what that one
    does: value, scale, zero point, bit width. What a trace cannot read off (integers of weights,
    scales that come in from other layers) it remembers from the pass with real values.

    Attributes:
        session: the export under way; None where a user's own exporter traces the model.
        name: dotted name of the proxy.
    """

    def __init__(self) -> None:
        super().__init__()
        self.session: ExportSession | None = None
        self.name = type(self).__name__
        self._observed: dict[int, object] = {}

    @property
    def opset(self) -> int:
        """Version of the standard operators that the file will use."""
        return DEFAULT_OPSET if self.session is None else self.session.opset

    def prepare_for_export(self, module: nn.Module) -> None:
        """Read the spec of the proxy."""
        self.name = getattr(module, "export_debug_name", None) or type(module).__name__
        self.read(module)

    @abstractmethod
    def read(self, proxy: Any) -> None:
        """Keep what is needed from the proxy."""

    @abstractmethod
    def observe(self, x: Tensor, /, *args: Any) -> tuple[Quantized, object]:
        """Quantize real values; return the result, and what to remember of this call."""

    @abstractmethod
    def write(self, observed: Any, x: Tensor, /, *args: Any) -> Quantized:
        """Write the nodes of one call into the trace."""

    def forward(self, *args: Any) -> Quantized:
        """Stand in for the quantizer, with real values or inside of a trace."""
        # Without a session nobody says where a pass begins, so all calls count as the first.
        calls = 0 if self.session is None else self.session.count_call(self.name)
        if not is_tracing():
            result, self._observed[calls] = self.observe(*args)
            return result
        if calls not in self._observed:
            raise ExportError(
                "the quantizer ran more often under the tracer than with real values before; run "
                "the model once in export mode, and make forward independent of the tracer. "
                f"Layer: {self.name}"
            )
        return self.write(self._observed[calls], *args)


def joins(session: ExportSession) -> Callable[[BaseHandler], None]:
    """Return what makes a handler take part in an export, for ``export_mode``.

    Args:
        session: the export under way.
    """

    def join(handler: BaseHandler) -> None:
        if isinstance(handler, ONNXBaseHandler):
            handler.session = session

    return join


class IntHandler(ONNXBaseHandler):
    """Stands in for an integer quantizer."""

    def read(self, proxy: Any) -> None:
        """Keep the flags of the proxy, and its quantizer out of sight of ``modules()``."""
        if proxy.is_groupwise:
            raise ExportError(
                f"group_size={proxy.group_size}: no node of this format holds a scale per group; "
                f"use a scale per channel or per tensor. Layer: {self.name}"
            )
        self.is_signed = bool(proxy.is_signed)
        self.is_narrow_range = bool(proxy.is_narrow_range)
        quantizer = quantizer_of(proxy)
        random = _random_rounding(quantizer, self.name)
        self.rounding_mode = "ROUND" if random else proxy.rounding_mode or "ROUND"
        self._quantizer = (quantizer,)

    def quantize(self, *args: Any) -> Quantized:
        """Call the quantizer that the handler stands in for."""
        return self._quantizer[0](*args)

    def spec_of(self, outputs: Quantized) -> QuantSpec:
        """Freeze what the quantizer returned beside the value."""
        spec = QuantSpec(
            outputs[1],
            outputs[2],
            outputs[3],
            self.is_signed,
            self.is_narrow_range,
            self.rounding_mode,
            self.name,
        )
        return intern(spec.validate(), self.session)


def _random_rounding(quantizer: Any, name: str) -> bool:
    """Whether a quantizer rounds at random in training, and to nearest once that is over.

    Raises:
        ExportError: where it goes on drawing in evaluation, which no file can hold.
    """
    parts = [part for part in quantizer.modules() if isinstance(part, StochasticRoundSte)]
    if any(not part.deterministic_inference for part in parts):
        raise ExportError(
            "deterministic_inference=False: a rounding that draws anew on every call has no "
            "representation, and a file would hold one draw for good; set it to True, which rounds "
            f"to nearest in evaluation. Layer: {name}"
        )
    return bool(parts)


@dataclass(frozen=True)
class Observed:
    """One call with real values: the spec, how a format stores it, and constant data if any."""

    spec: QuantSpec
    plan: Any
    data: Tensor | None
    metadata: Quantized


class ActHandler(IntHandler):
    """Stands in for the quantizer of an activation: its scale is fixed, its data is not."""

    @abstractmethod
    def plan(self, spec: QuantSpec) -> Any:
        """Choose how the format stores the spec, or raise ExportError."""

    @abstractmethod
    def node(self, x: Tensor, plan: Any) -> Tensor:
        """Write the nodes, or compute their value outside of a trace."""

    def observe(self, x: Tensor, /, *args: Any) -> tuple[Quantized, Observed]:
        """Check that the nodes will compute what the quantizer does."""
        outputs = self.quantize(x, *args)
        spec = self.spec_of(outputs)
        plan = self.plan(spec)
        if not is_faithful(x, outputs[0], spec):
            raise ExportError(UNFAITHFUL.format(self.name))
        metadata = (spec.scale, spec.zero_point, spec.bit_width, *outputs[4:])
        return (self.node(x, plan), *metadata), Observed(spec, plan, None, metadata)

    def write(self, observed: Observed, x: Tensor, /, *args: Any) -> Quantized:
        """Write the nodes."""
        return (self.node(x, observed.plan), *observed.metadata)


class DynamicActHandler(IntHandler):
    """Stands in for an activation quantizer that finds its scale anew for each input.

    The graph computes the scale too: the quantizer is traced, and what it makes of the value is
    dropped in favour of a node that reads the traced scale.
    """

    @abstractmethod
    def plan(self, spec: QuantSpec) -> Any:
        """Choose how the format stores a spec of this scale's shape, or raise ExportError."""

    @abstractmethod
    def dynamic_node(self, x: Tensor, spec: QuantSpec, plan: Any) -> Tensor:
        """Write the nodes around the scale and zero point of ``spec``."""

    def observe(self, x: Tensor, /, *args: Any) -> tuple[Quantized, Observed]:
        """Check the format against the scale of this input."""
        outputs = self.quantize(x, *args)
        spec = self.spec_of(outputs)
        plan = self.plan(spec)
        if not is_faithful(x, outputs[0], spec):
            raise ExportError(UNFAITHFUL.format(self.name))
        return outputs, Observed(spec, plan, None, (spec.bit_width, *outputs[4:]))

    def write(self, observed: Observed, x: Tensor, /, *args: Any) -> Quantized:
        """Write the scale's computation and the nodes."""
        _, scale, zero_point, *_ = self.quantize(x, *args)
        spec = replace(observed.spec, scale=scale, zero_point=zero_point)
        value = self.dynamic_node(x, spec, observed.plan)
        return (value, scale, zero_point, *observed.metadata)


class ConstantHandler(IntHandler):
    """Stands in for the quantizer of a parameter: data and scale are both constants."""

    #: Whether integers are placed on the grid on which they are found.
    has_one_grid = True

    def read(self, proxy: Any) -> None:
        """Keep the flags of the proxy, and its quantizer out of sight of ``modules()``."""
        super().read(proxy)
        # No node divides by one scale and multiplies by another: the file holds the quantized
        # values, which a rounding to nearest gives back.
        self.has_one_grid = not isinstance(proxy, DecoupledWeightQuantProxyFromInjector)
        self.rounding_mode = self.rounding_mode if self.has_one_grid else "ROUND"

    def is_restated(self, x: Tensor, value: Tensor, spec: QuantSpec) -> bool:
        """Whether a node that quantizes the parameter ``x`` anew gives ``value``."""
        return self.has_one_grid and is_faithful(x, value, spec)

    @abstractmethod
    def plan(self, spec: QuantSpec) -> Any:
        """Choose how the format stores the spec, or raise ExportError."""

    @abstractmethod
    def constant(self, x: Tensor, value: Tensor, plan: Any) -> tuple[Tensor | None, Any]:
        """Choose the data of the file.

        Args:
            x: the parameter.
            value: what the quantizer made of it.
            plan: how the format stores it.

        Returns:
            The data, or None for ``x`` itself, and the plan that fits it.
        """

    @abstractmethod
    def node(self, x: Tensor, data: Tensor | None, plan: Any) -> Tensor:
        """Write the nodes, or compute their value outside of a trace."""

    def observe(self, x: Tensor, /, *args: Any) -> tuple[Quantized, Observed]:
        """Compute the constants of this call."""
        outputs = self.quantize(x, *args)
        spec = self.spec_of(outputs)
        plan = self.plan(spec)
        data, plan = self.constant(x, outputs[0], plan)
        metadata = (spec.scale, spec.zero_point, spec.bit_width, *outputs[4:])
        return (self.node(x, data, plan), *metadata), Observed(spec, plan, data, metadata)

    def write(self, observed: Observed, x: Tensor, /, *args: Any) -> Quantized:
        """Write the nodes."""
        return (self.node(x, observed.data, observed.plan), *observed.metadata)


class TruncHandler(IntHandler):
    """Stands in for a truncation, called with value, scale, zero point, bits and sign."""

    handled_layer = TruncQuantProxyFromInjector

    def read(self, proxy: Any) -> None:
        """Keep the flags of the proxy, and its quantizer out of sight of ``modules()``."""
        super().read(proxy)
        self.keeps_scale = bool(proxy.keeps_scale)

    @abstractmethod
    def plan(self, source: QuantSpec, target: QuantSpec) -> Any:
        """Choose how the format drops the bits, or raise ExportError."""

    @abstractmethod
    def node(self, x: Tensor, plan: Any) -> Tensor:
        """Write the nodes, or compute their value outside of a trace."""

    def observe(self, x: Tensor, /, *args: Any) -> tuple[Quantized, Observed]:
        """Freeze the grid that comes in and the one that goes out; check the nodes' result."""
        outputs = self.quantize(x, *args)
        self.is_signed = bool(args[3])
        target = self.spec_of(outputs)
        plan = self.plan(self.spec_of((x, *args[:3])), target)
        value = self.node(x, plan)
        if bool(((value - outputs[0]).abs() > 0.5 * target.scale).any()):
            raise ExportError(UNFAITHFUL.format(self.name))
        metadata = (target.scale, target.zero_point, target.bit_width)
        return (value, *metadata), Observed(target, plan, None, metadata)

    def write(self, observed: Observed, x: Tensor, /, *args: Any) -> Quantized:
        """Write the nodes."""
        return (self.node(x, observed.plan), *observed.metadata)
