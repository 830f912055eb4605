"""Export to TorchScript: integers, clip and dequantize in plain PyTorch. Layer: export (L8)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from brevitas.export.common.destination import Destination, check_destination, write_whole
from brevitas.export.common.inputs import solve_inputs
from brevitas.export.common.session import ExportSession
from brevitas.export.manager import BaseManager, export_mode
from brevitas.export.onnx.handler import joins
from brevitas.export.onnx.standard.function import INT16_OPSET
from brevitas.export.onnx.standard.qcdq.manager import StdQCDQONNXManager
from brevitas.quant_tensor import QuantTensor

__all__ = ["TorchQCDQManager"]


class TorchQCDQManager(BaseManager):
    """Exports to TorchScript with the arithmetic of QuantizeLinear and DequantizeLinear."""

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
            The traced module.

        Raises:
            ExportError: on a quantizer that the format cannot represent.
            TypeError: where ``module`` is none.
        """
        inputs = solve_inputs(module, args, input_shape, input_t)
        check_destination(export_path)
        # TorchScript has 16-bit integers, as ONNX does from this version on.
        session = ExportSession(opset=INT16_OPSET, weight_quantize_node=export_weight_q_node)
        with export_mode(cls, module, joins(session)):
            restart = module.register_forward_pre_hook(lambda *_: session.restart())
            try:
                module(*inputs)
                traced: Any = torch.jit.trace(module, inputs, check_trace=False)
            finally:
                restart.remove()
        if export_path is not None:
            write_whole(export_path, partial(torch.jit.save, traced))
        return traced
