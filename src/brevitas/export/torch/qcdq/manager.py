"""Export to TorchScript: integers, clip and dequantize in plain PyTorch. Layer: export (L8)."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from brevitas.export.common.handler.base import BaseHandler
from brevitas.export.common.session import ExportSession
from brevitas.export.manager import (
    BaseManager,
    expect_module,
    export_mode,
)
from brevitas.export.onnx.handler import ONNXBaseHandler
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
        args: Tensor | QuantTensor | tuple[Any, ...],
        export_path: str | os.PathLike[str] | None = None,
        export_weight_q_node: bool = False,
    ) -> torch.jit.ScriptModule:
        """Export a model to TorchScript.

        Args:
            module: the model.
            args: example input, or a tuple of them.
            export_path: where to write the file; nothing is written where None.
            export_weight_q_node: whether weights stay float and are quantized at run time.

        Returns:
            The traced module.

        Raises:
            ExportError: on a quantizer that the format cannot represent.
            TypeError: where ``module`` is none.
        """
        expect_module(module)
        inputs = (args,) if isinstance(args, (Tensor, QuantTensor)) else tuple(args)
        # TorchScript has 16-bit integers, as ONNX does from this version on.
        session = ExportSession(opset=INT16_OPSET, weight_quantize_node=export_weight_q_node)

        def configure(handler: BaseHandler) -> None:
            if isinstance(handler, ONNXBaseHandler):
                handler.session = session

        with export_mode(cls, module, configure):
            restart = module.register_forward_pre_hook(lambda *_: session.restart())
            try:
                module(*inputs)
                traced: Any = torch.jit.trace(module, inputs, check_trace=False)
            finally:
                restart.remove()
        if export_path is not None:
            torch.jit.save(traced, os.fspath(export_path))
        return traced
