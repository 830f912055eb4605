"""Sums and concatenations of tensors that share one quantizer. Layer: nn (L6)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from brevitas.nn.mixin.base import KeywordReport, QuantLayerMixin
from brevitas.nn.quant_layer import ActQuantType, QuantInputOutputLayer
from brevitas.quant.scaled_int import Int8ActPerTensorFloat
from brevitas.quant_tensor import IntQuantTensor, QuantTensor, _unpack_quant_tensor

__all__ = ["QuantCat", "QuantEltwiseAdd"]


class OperandsOnOneGrid(QuantInputOutputLayer, nn.Module):
    """A layer that quantizes all its operands by one quantizer, and its result by another.

    Args:
        input_quant: quantizer of all operands; None takes them as they are.
        output_quant: quantizer of the result; None leaves it on the grid of its operands.
        tie_input_output_quant: quantize the result by the quantizer of the operands.
        return_quant_tensor: return the output with scale, zero point and bit width.
        device: device of the quantizers.
        dtype: dtype of the quantizers.
        **kwargs: declarations of the quantizers by prefix, ``input_`` and ``output_``.
    """

    def __init__(
        self,
        input_quant: ActQuantType | None = Int8ActPerTensorFloat,
        output_quant: ActQuantType | None = Int8ActPerTensorFloat,
        tie_input_output_quant: bool = False,
        return_quant_tensor: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        nn.Module.__init__(self)
        QuantLayerMixin.__init__(self, return_quant_tensor)
        report = KeywordReport(self, kwargs)
        quantizers = (input_quant, output_quant, tie_input_output_quant)
        self.attach_input_output_quant(*quantizers, report, device=device, dtype=dtype)
        report.warn_unused()

    @property
    def channelwise_separable(self) -> bool:
        """True: each element depends on elements of its own channel."""
        return True

    def quantized(self, operands: Iterable[Tensor | QuantTensor]) -> list[Any]:
        """Quantize the operands.

        They keep their scales where these are asked for and nothing quantizes the result.
        Elsewhere scales would only be compared, not used; then they may differ as well.
        """
        quantized = [self.input_quant(self.unpack_input(operand)) for operand in operands]
        keeps_metadata = self.return_quant_tensor and not self.output_quant.is_quant_enabled
        if keeps_metadata and all(isinstance(operand, QuantTensor) for operand in quantized):
            return quantized
        return [_unpack_quant_tensor(operand) for operand in quantized]


class QuantEltwiseAdd(OperandsOnOneGrid):
    """Sum of two tensors on one grid: ``y = output_quant(input_quant(x1) + input_quant(x2))``.

    Both operands go through the same quantizer, so that their integers can be added.

    Args:
        input_quant: quantizer of both operands; None takes them as they are.
        output_quant: quantizer of the sum; None leaves it on the grid of its operands, with one
            bit more.
        tie_input_output_quant: quantize the sum by the quantizer of the operands.
        return_quant_tensor: return the output with scale, zero point and bit width.
        device: device of the quantizers.
        dtype: dtype of the quantizers.
        **kwargs: declarations of the quantizers by prefix, ``input_`` and ``output_``.

    Example:
        >>> layer = QuantEltwiseAdd(output_quant=None, return_quant_tensor=True)
        >>> x, other = torch.tensor([1.0, 0.5]), torch.tensor([-0.25, 0.5])
        >>> _ = layer(x, other)  # one step of training, from which the quantizer learns its scale
        >>> y = layer.eval()(x, other)
        >>> y.bit_width, y.is_valid
        (tensor(9.), True)
    """

    def forward(self, input: Tensor | QuantTensor, other: Tensor | QuantTensor) -> Any:
        """Return the quantized sum, of the shape that the operands broadcast to."""
        first, second = self.quantized((input, other))
        return self.pack_output(self.output_quant(_sum(first, second)))


class QuantCat(OperandsOnOneGrid):
    """Concatenation of tensors on one grid: ``y = output_quant(cat(input_quant(x) for x))``.

    Args:
        input_quant: quantizer of all operands; None takes them as they are.
        output_quant: quantizer of the result; None leaves it on the grid of its operands.
        tie_input_output_quant: quantize the result by the quantizer of the operands.
        return_quant_tensor: return the output with scale, zero point and bit width.
        device: device of the quantizers.
        dtype: dtype of the quantizers.
        **kwargs: declarations of the quantizers by prefix, ``input_`` and ``output_``.

    Example:
        >>> layer = QuantCat(output_quant=None, return_quant_tensor=True)
        >>> tensors = [torch.ones(1, 2), -torch.ones(1, 3)]
        >>> _ = layer(tensors)  # one step of training
        >>> y = layer.eval()(tensors)
        >>> y.shape, y.is_valid
        (torch.Size([1, 5]), True)
    """

    def forward(self, tensor_list: Sequence[Tensor | QuantTensor], dim: int = 1) -> Any:
        """Return the tensors one after the other along ``dim``, quantized."""
        joined = torch.cat(self.quantized(tensor_list), dim=dim)
        return self.pack_output(self.output_quant(joined))


def _sum(first: Any, second: Any) -> Any:
    """The sum, with bits that hold it also where one operand alone is signed."""
    total = first + second
    operands = (first, second, total)
    if not all(isinstance(x, IntQuantTensor) for x in operands) or first.signed == second.signed:
        return total
    bits = [x.bit_width if x.signed else x.bit_width + 1 for x in (first, second)]
    return total.set(bit_width=torch.maximum(torch.maximum(*bits) + 1, total.bit_width))
