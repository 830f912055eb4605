"""Export to TorchScript whose layers are the quantized operators of PyTorch.

Layer: export (L8).
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from brevitas.export.common.destination import Destination, check_destination
from brevitas.export.common.examples import copied
from brevitas.export.common.inputs import plain_values, solve_inputs
from brevitas.export.common.integer_model import check_integer_model
from brevitas.export.common.session import ExportSession
from brevitas.export.common.spec import ExportError
from brevitas.export.manager import BaseManager
from brevitas.export.onnx.standard.manager import DEFAULT_OPSET
from brevitas.export.onnx.standard.qoperator.manager import StdQOpONNXManager
from brevitas.export.torch.qoperator.execution import Execution
from brevitas.export.torch.recording import Runner
from brevitas.export.torch.scripting import check_outputs, script, without_deprecations
from brevitas.export.torch.tracing import trace_model
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
        traced = trace_model(cls, module, inputs, session)
        values = plain_values(inputs)
        root = type(module).__name__
        layers = nn.ModuleDict()
        execution = Execution(traced.graph, session, layers, root)
        with torch.no_grad(), without_deprecations():
            runner = Runner(execution, traced.limits, layers)
            check_outputs(runner(*copied(values)), root)
            file = script(runner, values, export_path)
        if execution.overflowing:
            warnings.warn(
                "8-bit weights on 8-bit inputs overflow on x86 CPUs without VNNI; set "
                f"weight_bit_width=7. Layers: {', '.join(execution.overflowing)}",
                UserWarning,
                stacklevel=2,
            )
        return file


def _check_device(module: nn.Module) -> None:
    """Raise on a model that is not on the CPU, where the quantized operators are."""
    tensors = (*module.parameters(), *module.buffers())
    devices = {tensor.device for tensor in tensors} - {torch.device("cpu")}
    if devices:
        raise ExportError(
            f"device={devices.pop()}: PyTorch's quantized operators run on the CPU; call "
            f"model.cpu() first. Layer: {type(module).__name__}"
        )
