"""Export to TorchScript whose layers are the quantized operators of PyTorch.

Layer: export (L8).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from brevitas.export.common.handler.base import BaseHandler
from brevitas.export.common.session import ExportSession
from brevitas.export.common.spec import ExportError
from brevitas.export.manager import (
    BaseManager,
    export_mode,
)
from brevitas.export.onnx.handler import ONNXBaseHandler
from brevitas.export.onnx.manager import (
    _first_line,
    _own_error,
    _plain_signature,
    plain_values,
    solve_inputs,
)
from brevitas.export.onnx.standard.manager import DEFAULT_OPSET
from brevitas.export.onnx.standard.qoperator.manager import StdQOpONNXManager, check_weights
from brevitas.export.torch.qoperator.execution import Execution
from brevitas.quant_tensor import QuantTensor

__all__ = ["TorchQOpManager"]

# Nodes by which torch.export states what it assumed; nothing of a model depends on them.
_ASSERTIONS = (
    torch.ops.aten._assert_tensor_metadata.default,
    torch.ops.aten._assert_scalar.default,
    torch.ops.aten.sym_constrain_range_for_size.default,
)


class TorchQOpManager(BaseManager):
    """Exports to TorchScript with ``torch.ops.quantized.*`` on quantized tensors.

    The model is traced once by ``torch.export``; each layer and the quantizers around it become
    one operator of ``torch.ops.quantized``, which TorchScript records with its packed weight.
    The file loads with ``torch.jit.load`` wherever PyTorch has a quantized engine (x86, fbgemm,
    onednn, qnnpack), and needs nothing of this library.

    This is the route to a file of integer operators that PyTorch itself both saves and runs.
    PyTorch has declared TorchScript and quantized tensors deprecated in favour of
    ``torch.export``, whose programs hold no quantized tensors; until it has a file format that
    takes their place, the warnings about it are kept quiet here.

    - ``QuantConv1d/2d/3d``: ``quantized::conv1d/2d/3d``; ``QuantLinear``: ``quantized::linear``.
    - Sums and products of two activations in front of a quantizer: ``quantized::add``, ``mul``.
    - ReLU and other clamps in front of a quantizer: limits of its integers.
    - Max pooling, padding, reshaping and concatenation on one scale: on quantized tensors.
    - All else: between ``dequantize`` and ``quantize_per_tensor``.

    A layer needs a quantized weight, input and output; the output's quantizer may be that of a
    ``QuantReLU`` or ``QuantIdentity`` behind it. Activations are unsigned 8-bit integers
    (``torch.quint8``), signed ones move by 128; weights are signed ones (``torch.qint8``). Use 7
    bits for weights, or for activations: CPUs without VNNI instructions add two products in 16
    bits, which full 8-bit ranges overflow. A warning names the layers concerned.

    Results differ from the model's by at most one step per layer, where an output lies on the
    edge between two integers: measured for 3 in 100,000 outputs, and for 5 in 10,000 where a bias
    is not quantized, which the operators round to steps of ``input scale * weight scale``.
    """

    target_name = "TorchScript QOp"
    handlers = StdQOpONNXManager.handlers

    @classmethod
    def export(
        cls,
        module: nn.Module,
        args: Tensor | QuantTensor | tuple[Any, ...] | None = None,
        export_path: str | os.PathLike[str] | None = None,
        input_shape: tuple[int, ...] | None = None,
        input_t: Tensor | QuantTensor | None = None,
    ) -> torch.jit.ScriptModule:
        """Export a model to TorchScript with quantized operators.

        Args:
            module: the model, on the CPU.
            args: example input, or a tuple of them.
            export_path: where to write the file; nothing is written where None.
            input_shape: shape of a random example input, in place of ``args``.
            input_t: example input, in place of ``args``.

        Returns:
            The traced module, from real values to real values.

        Raises:
            ExportError: on a layer or quantizer that has no quantized operator.
        """
        inputs = solve_inputs(module, args, input_shape, input_t)
        check_weights(module)
        _check_device(module)
        session = ExportSession(opset=DEFAULT_OPSET)
        graph = cls.trace(module, inputs, session)
        values = plain_values(inputs)
        with torch.no_grad(), _without_deprecations():
            runner = _Runner(graph, session, type(module).__name__)
            runner(*values)
            overflowing = runner.overflowing
            traced: Any = torch.jit.trace(runner.eval(), values, check_trace=False, strict=False)
            if export_path is not None:
                torch.jit.save(traced, os.fspath(export_path))
        if overflowing:
            warnings.warn(
                "8-bit weights on 8-bit inputs overflow on x86 CPUs without VNNI; set "
                f"weight_bit_width=7. Layers: {', '.join(overflowing)}",
                UserWarning,
                stacklevel=2,
            )
        return traced

    @classmethod
    def trace(
        cls, module: nn.Module, inputs: tuple[Any, ...], session: ExportSession
    ) -> fx.GraphModule:
        """Trace a model to float operators between nodes that quantize and dequantize."""

        def configure(handler: BaseHandler) -> None:
            if isinstance(handler, ONNXBaseHandler):
                handler.session = session

        values = plain_values(inputs)
        with _plain_signature(module, inputs), export_mode(cls, module, configure):
            module(*values)
            session.restart()
            try:
                program = torch.export.export(
                    module, values, dynamic_shapes=_dynamic(values), strict=False
                )
            except Exception as error:
                cause = _own_error(error)
                if cause is not None:
                    raise cause from error
                raise ExportError(
                    f"tracing failed: {_first_line(error)} Make forward traceable by "
                    "torch.export (no branches on tensor values), or take the layer out."
                ) from error
        graph = program.module(check_guards=False)
        for node in list(graph.graph.nodes):
            if node.target in _ASSERTIONS:
                graph.graph.erase_node(node)
            elif "shape" in node.kwargs:
                # That of a symbolic node, which reads sizes that nothing else needs.
                node.kwargs = {**node.kwargs, "shape": ()}
        graph.graph.eliminate_dead_code()
        graph.recompile()
        return graph


class _Runner(nn.Module):
    """The model as packed layers, and the graph that says in which order they run.

    Args:
        graph: the traced model.
        session: the export under way.
        root: name of the whole model, for messages.
    """

    def __init__(self, graph: fx.GraphModule, session: ExportSession, root: str) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        # In a tuple: its float parameters are no part of the file.
        self._execution = (Execution(graph, session, self.layers, root),)

    @property
    def overflowing(self) -> list[str]:
        """Layers whose products can exceed 16 bits."""
        return self._execution[0].overflowing

    def forward(self, *args: Tensor) -> Any:
        """Run the graph."""
        return self._execution[0].run(*args)


def _dynamic(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Leave the sizes of all inputs open; torch.export closes those that the model fixes.

    It takes a size of 1 for a fixed one in any case.
    """
    auto = torch.export.Dim.AUTO
    return tuple(
        {dim: auto for dim, size in enumerate(value.shape) if size > 1}
        if isinstance(value, Tensor)
        else None
        for value in values
    )


def _check_device(module: nn.Module) -> None:
    """Raise on a model that is not on the CPU, where the quantized operators are."""
    devices = {tensor.device for tensor in module.parameters()} - {torch.device("cpu")}
    if devices:
        raise ExportError(
            f"device={devices.pop()}: PyTorch's quantized operators run on the CPU; call "
            f"model.cpu() first. Layer: {type(module).__name__}"
        )


@contextmanager
def _without_deprecations() -> Iterator[None]:
    """Keep back that TorchScript and quantized tensors are deprecated, and the tracer's notes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        tracer: Any = torch.jit
        warnings.filterwarnings("ignore", category=tracer.TracerWarning)
        warnings.filterwarnings("ignore", message=".*quantized tensor creation functions.*")
        yield
