"""Export to TorchScript: integers, clip and dequantize in plain PyTorch. Layer: export (L8)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from brevitas.export.common.destination import Destination, check_destination
from brevitas.export.common.examples import copied
from brevitas.export.common.inputs import plain_values, solve_inputs
from brevitas.export.common.session import ExportSession
from brevitas.export.manager import BaseManager
from brevitas.export.onnx.standard.function import INT16_OPSET
from brevitas.export.onnx.standard.qcdq.manager import StdQCDQONNXManager
from brevitas.export.torch.recording import Recording, Runner
from brevitas.export.torch.scripting import check_outputs, script, without_deprecations
from brevitas.export.torch.tracing import trace_model
from brevitas.quant_tensor import QuantTensor

__all__ = ["TorchQCDQManager"]


class TorchQCDQManager(BaseManager):
    """Exports to TorchScript with the arithmetic of QuantizeLinear and DequantizeLinear.

    Inputs and outputs are plain tensors: of a QuantTensor, its value.
    """

    target_name = "TorchScript QCDQ"
    handlers = StdQCDQONNXManager.handlers

    @classmethod
    def export(
        cls,
        module: nn.Module,
        args: Tensor | QuantTensor | tuple[Any, ...] | None = None,
        export_path: Destination | None = None,
        export_weight_q_node: bool = False,
        input_shape: tuple[int, ...] | None = None,
        input_t: Tensor | QuantTensor | None = None,
    ) -> torch.jit.ScriptModule:
        """Export a model to TorchScript.

        Args:
            module: the model.
            args: example input, or a tuple of them.
            export_path: path of the file, or a file opened for writing bytes; nothing is written
                where None.
            export_weight_q_node: whether weights stay float and are quantized at run time.
            input_shape: shape of a random example input, in place of ``args``.
            input_t: example input, in place of ``args``.

        Returns:
            What the file holds. It takes inputs of every size for which it computes what the
            model does, and raises on others.

        Raises:
            ExportError: on a quantizer that the format cannot represent, and on a model that
                branches on values or keeps state.
            TypeError: where ``module`` is none.
        """
        inputs = solve_inputs(module, args, input_shape, input_t)
        check_destination(export_path)
        # TorchScript has 16-bit integers, as ONNX does from this version on.
        session = ExportSession(
            opset=INT16_OPSET, weight_quantize_node=export_weight_q_node, writes_nodes=False
        )
        traced = trace_model(cls, module, inputs, session)
        values, root = plain_values(inputs), type(module).__name__
        with torch.no_grad(), without_deprecations():
            runner = Runner(Recording(traced.graph), traced.limits)
            check_outputs(runner(*copied(values)), root)
            return script(runner, values, export_path)
