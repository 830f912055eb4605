"""Export to TorchScript whose layers are the quantized operators of PyTorch.

Layer: export (L8).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from brevitas.export.common.destination import Destination, check_destination, write_whole
from brevitas.export.common.failures import tracing_failed
from brevitas.export.common.inputs import plain_signature, plain_values, solve_inputs
from brevitas.export.common.integer_model import check_integer_model
from brevitas.export.common.session import ExportSession
from brevitas.export.common.spec import ExportError
from brevitas.export.manager import BaseManager, export_mode
from brevitas.export.onnx.handler import joins
from brevitas.export.onnx.standard.manager import DEFAULT_OPSET
from brevitas.export.onnx.standard.qoperator.manager import StdQOpONNXManager
from brevitas.export.torch.qoperator.execution import Execution
from brevitas.export.torch.qoperator.sizes import expect_sizes
from brevitas.export.torch.qoperator.tracing import Traced, trace_open
from brevitas.quant_tensor import QuantTensor

__all__ = ["TorchQOpManager"]


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
        export_path: Destination | None = None,
        input_shape: tuple[int, ...] | None = None,
        input_t: Tensor | QuantTensor | None = None,
    ) -> torch.jit.ScriptModule:
        """Export a model to TorchScript with quantized operators.

        Args:
            module: the model, on the CPU.
            args: example input, or a tuple of them.
            export_path: path of the file, or a file opened for writing bytes; nothing is written
                where None.
            input_shape: shape of a random example input, in place of ``args``.
            input_t: example input, in place of ``args``.

        Returns:
            The traced module, from real values to real values.

        Raises:
            ExportError: on a layer or quantizer that has no quantized operator.
        """
        inputs = solve_inputs(module, args, input_shape, input_t)
        check_destination(export_path)
        check_integer_model(module, inputs)
        _check_device(module)
        session = ExportSession(opset=DEFAULT_OPSET)
        traced = cls.trace(module, inputs, session)
        values = plain_values(inputs)
        root = type(module).__name__
        with torch.no_grad(), _without_deprecations():
            runner = _Runner(traced, session, root)
            check_outputs(runner(*values), root)
            overflowing = runner.overflowing
            file = _script(runner, values)
            if export_path is not None:
                write_whole(export_path, partial(torch.jit.save, file))
        if overflowing:
            warnings.warn(
                "8-bit weights on 8-bit inputs overflow on x86 CPUs without VNNI; set "
                f"weight_bit_width=7. Layers: {', '.join(overflowing)}",
                UserWarning,
                stacklevel=2,
            )
        return file

    @classmethod
    def trace(cls, module: nn.Module, inputs: tuple[Any, ...], session: ExportSession) -> Traced:
        """Trace a model to float operators between nodes that quantize and dequantize."""
        values = plain_values(inputs)
        with plain_signature(module, inputs), export_mode(cls, module, joins(session)):
            module(*values)
            session.restart()
            return trace_open(module, values)


class _Runner(nn.Module):
    """The model as packed layers, and the graph that says in which order they run.

    Args:
        traced: the traced model.
        session: the export under way.
        root: name of the whole model, for messages.
    """

    def __init__(self, traced: Traced, session: ExportSession, root: str) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        # In tuples: float parameters and a compiled function are no part of the file.
        self._execution = (Execution(traced.graph, session, self.layers, root),)
        self._expect_sizes = (torch.jit.script(expect_sizes),)
        self.limits = traced.limits

    @property
    def overflowing(self) -> list[str]:
        """Layers whose products can exceed 16 bits."""
        return self._execution[0].overflowing

    def forward(self, *args: Any) -> Any:
        """Check the inputs, and run the graph."""
        leaves, structure = tree_flatten(args)
        for index, limits in enumerate(self.limits):
            if limits is not None:
                expected = f"input {index} of sizes {limits.text}"
                bounds = (list(limits.low), list(limits.high), expected)
                leaves[index] = self._expect_sizes[0](leaves[index], *bounds)
        return self._execution[0].run(*tree_unflatten(leaves, structure))


def _script(runner: _Runner, values: tuple[Any, ...]) -> Any:
    try:
        return torch.jit.trace(runner.eval(), values, check_trace=False, strict=False)
    except RuntimeError as error:
        raise tracing_failed(error) from error


def check_outputs(outputs: Any, layer: str) -> None:
    """Raise on outputs that TorchScript has no type for.

    Args:
        outputs: what the model returned.
        layer: name of the model.

    Raises:
        ExportError: on anything but tensors, tuples, and lists and dicts of one type.

    Example:
        >>> check_outputs((torch.ones(1), None), "Net")
        Traceback (most recent call last):
        brevitas.export.common.spec.ExportError: the model returns (Tensor, None): a file returns
        tensors, tuples of them, and lists and dicts of one type; return a tuple. Layer: Net
    """
    if not _has_type(outputs):
        raise ExportError(
            f"the model returns {_kind(outputs)}: a file returns tensors, tuples of them, and "
            f"lists and dicts of one type; return a tuple. Layer: {layer}"
        )


def _has_type(outputs: Any) -> bool:
    if isinstance(outputs, Tensor):
        return True
    if isinstance(outputs, tuple):
        return all(map(_has_type, outputs))
    if isinstance(outputs, (list, dict)):
        items = list(outputs.values()) if isinstance(outputs, dict) else outputs
        return all(map(_has_type, items)) and len(set(map(_kind, items))) == 1
    return False


def _kind(outputs: Any) -> str:
    """Describe the structure of outputs."""
    if outputs is None:
        return "None"
    if isinstance(outputs, dict):
        inner = ", ".join(f"{name!r}: {_kind(item)}" for name, item in outputs.items())
        return f"{{{inner}}}"
    if isinstance(outputs, (tuple, list)):
        inner = ", ".join(map(_kind, outputs))
        return f"({inner})" if isinstance(outputs, tuple) else f"[{inner}]"
    return type(outputs).__name__


def _check_device(module: nn.Module) -> None:
    """Raise on a model that is not on the CPU, where the quantized operators are."""
    tensors = (*module.parameters(), *module.buffers())
    devices = {tensor.device for tensor in tensors} - {torch.device("cpu")}
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
