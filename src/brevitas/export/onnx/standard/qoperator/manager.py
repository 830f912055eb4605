"""Export to QLinearConv and QLinearMatMul, a graph that computes on integers.

Layer: export (L8).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from brevitas.export.common.integer_model import check_integer_model
from brevitas.export.common.spec import ExportError
from brevitas.export.onnx.standard.function import AXIS_OPSET
from brevitas.export.onnx.standard.manager import StdONNXBaseManager
from brevitas.export.onnx.standard.qcdq.handler import QCDQBiasHandler, QCDQTruncHandler
from brevitas.export.onnx.standard.qoperator.fusion import fuse
from brevitas.export.onnx.standard.qoperator.handler import QOpActHandler, QOpWeightHandler

__all__ = ["StdQOpONNXManager"]


class StdQOpONNXManager(StdONNXBaseManager):
    """Exports to the integer operators of standard ONNX.

    The model is traced as for ``export_onnx_qcdq``; then each convolution and linear layer
    becomes one operator together with the quantizers around it:

    - ``QuantConv1d/2d/3d``: ``QLinearConv``.
    - ``QuantLinear`` without a bias, and products of two quantized activations:
      ``QLinearMatMul``. With a bias: ``QLinearConv`` over single positions, since
      ``QLinearMatMul`` has no bias and rounding before adding one would round twice.
    - ReLU and other clamps in front of an output quantizer: limits of its integers.
    - Max pooling, padding, reshaping and concatenation on one scale: on integers.
    - All else, such as residual additions and average pooling: between ``DequantizeLinear`` and
      ``QuantizeLinear``.

    A layer needs a quantized weight, input and output. The output's quantizer may be its own
    ``output_quant`` or that of a ``QuantReLU`` or ``QuantIdentity`` behind it. Weights of less
    than 8 bits are stored as 8-bit integers and biases as 32-bit ones, in steps of ``input scale *
    weight scale``; activations of less than 8 bits are followed by a ``Clip``. Where an input is
    signed and an output is not, the output's integers move by 128 to the type of the input's:
    ONNX Runtime has the operators for equal types only.

    A runtime multiplies an exact integer sum by ``input scale * weight scale / output scale`` and
    rounds half to even. The model adds rounded products instead, so an output on the edge between
    two integers can go to the other one: results differ by at most one step per layer, measured
    in ONNX Runtime 1.31 for 2 in 10,000 outputs. A bias that is not quantized is rounded to steps
    of the integer sum here and not in the model: 5 in 10,000, more for weights of 2 or 3 bits.
    On x86 CPUs without VNNI, ONNX Runtime adds products of unsigned inputs and full 8-bit weights
    in 16 bits, which overflow; use ``weight_bit_width=7`` there.
    """

    target_name = "ONNX QOp"
    handlers = [QOpWeightHandler, QCDQBiasHandler, QOpActHandler, QCDQTruncHandler]

    @classmethod
    def check(cls, module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Raise on an old version of the standard, and on layers that compute in real values."""
        opset = options.get("opset_version") or cls.default_opset
        if opset < AXIS_OPSET:
            raise ExportError(f"opset_version={opset}: integer operators need {AXIS_OPSET}.")
        check_integer_model(module, inputs)

    @classmethod
    def rewrite(cls, model: Any, name: str) -> Any:
        """Return the graph with integer operators in place of layers between integers."""
        return fuse(model, name)
