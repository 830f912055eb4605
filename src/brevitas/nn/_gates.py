"""Weights and bias of one gate of a recurrent layer, with their quantizers. Layer: nn (L6)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brevitas.nn.mixin.base import KeywordReport
from brevitas.nn.mixin.parameter import (
    BiasQuantType,
    QuantBiasMixin,
    QuantWeightMixin,
    WeightQuantType,
)
from brevitas.quant_tensor import IntQuantTensor, QuantTensor, plain
from brevitas.quant_tensor._accumulator import sum_bit_width, with_sign_bit
from brevitas.quant_tensor.int_torch_handler import quant_output_scale_impl, sums_one_scale

__all__ = ["GateParams", "GateWeight", "QuantGate"]

Factory = dict[str, Any]


class QuantGate(NamedTuple):
    """The quantized parameters of one gate, as plain tensors."""

    #: ``[hidden_size, input_size]``
    input_weight: Tensor
    #: ``[hidden_size, hidden_size]``
    hidden_weight: Tensor
    #: ``[hidden_size]``, or None
    bias: Tensor | None


class GateWeight(QuantWeightMixin, nn.Module):
    """The weight of one gate for the input or for the hidden state, ``[out, in]``.

    Args:
        input_features: size of what it multiplies.
        output_features: size of the gate.
        weight_quant: quantizer of the weight: a class, another weight's proxy to share, or None.
        dtype: dtype of the weight.
        device: device of the weight.
        report: where to record which keywords the quantizer reads.
        **kwargs: declarations of the quantizer, which start with ``weight_``.

    Example:
        >>> from brevitas.quant import Int8WeightPerTensorFloat
        >>> GateWeight(4, 3, Int8WeightPerTensorFloat, None, None)().bit_width
        tensor(8.)
    """

    def __init__(
        self,
        input_features: int,
        output_features: int,
        weight_quant: WeightQuantType | None,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
        *,
        report: KeywordReport | None = None,
        **kwargs: Any,
    ) -> None:
        nn.Module.__init__(self)
        factory: Factory = {"dtype": dtype, "device": device}
        self.weight = nn.Parameter(torch.randn(output_features, input_features, **factory))
        self.attach_weight_quant(weight_quant, report or KeywordReport(self, kwargs))

    @property
    def output_channel_dim(self) -> int:
        """0: the weight is ``[out, in]``."""
        return 0

    @property
    def out_channels(self) -> int:
        """Size of the gate."""
        return self.weight.shape[0]

    def forward(self) -> Tensor | QuantTensor:
        """Return the quantized weight, ``[out, in]``."""
        return self.quant_weight()

    def extra_repr(self) -> str:
        """Sizes, as ``torch.nn.Linear`` prints them."""
        return f"in_features={self.weight.shape[1]}, out_features={self.weight.shape[0]}"


class GateParams(QuantBiasMixin, nn.Module):
    """Input weight, hidden weight and bias of one gate: ``W_x q(x) + b + W_h q(h)``.

    Both weights share one quantizer, so that both products are on one grid where input and hidden
    state are. The bias is quantized for the product with the input.

    Args:
        input_size: size of the input.
        hidden_size: size of the hidden state and of the gate.
        bias: learn an additive bias.
        weight_quant: quantizer of both weights: a class, a proxy to share, or None.
        bias_quant: quantizer of the bias, or None.
        input_weight: input weight of another gate to share; None for one of its own.
        dtype: dtype of the parameters.
        device: device of the parameters.
        report: where to record which keywords the quantizers read.
        **kwargs: declarations of the quantizers, which start with ``weight_`` or ``bias_``.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool | None,
        weight_quant: WeightQuantType | None,
        bias_quant: BiasQuantType | None,
        input_weight: GateWeight | None,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
        *,
        report: KeywordReport | None = None,
        **kwargs: Any,
    ) -> None:
        nn.Module.__init__(self)
        report = report or KeywordReport(self, kwargs)
        factory: Factory = {"dtype": dtype, "device": device}
        drawn = nn.Parameter(torch.randn(hidden_size, **factory)) if bias else None
        self.register_parameter("bias", drawn)
        self.attach_bias_quant(bias_quant, report)
        if input_weight is None:
            input_weight = GateWeight(
                input_size, hidden_size, weight_quant, **factory, report=report
            )
        self.input_weight = input_weight
        # A shared quantizer reads no keywords: those that it has read are in the report.
        own = KeywordReport(self, {})
        shared = input_weight.weight_quant
        self.hidden_weight = GateWeight(hidden_size, hidden_size, shared, **factory, report=own)

    def quant_gate(self, quant_input: Tensor | QuantTensor) -> QuantGate:
        """Return the quantized parameters for one quantized input."""
        given = quant_input if isinstance(quant_input, QuantTensor) else None
        input_weight = self.input_weight.quant_weight(given)
        hidden_weight = self.hidden_weight.quant_weight(given)
        bias = self.bias_for(quant_input, input_weight)
        return QuantGate(plain(input_weight), plain(hidden_weight), bias)

    def bias_for(self, quant_input: Any, input_weight: Any) -> Tensor | None:
        """Return the quantized bias for quantized input and weight; None where there is none."""
        if self.bias is None or not self.bias_quant.is_quant_enabled:
            return self.bias
        return plain(self.bias_quant(self.bias, quant_input, input_weight))

    def quant_output_scale_impl(
        self, inp: Any, quant_input_scale: Tensor, quant_weight_scale: Tensor
    ) -> Tensor:
        """Scale of the product with the input: ``input scale * weight scale``."""
        scales = (quant_input_scale, quant_weight_scale)
        return quant_output_scale_impl(F.linear, plain(inp), *scales)

    def has_accumulator_scale(self, inp: IntQuantTensor) -> bool:
        """True where all products that an output sums have one input scale."""
        return sums_one_scale(F.linear, inp.value, inp.scale, 1, self.input_weight.out_channels)

    def max_acc_bit_width(self, input_bit_width: Tensor, weight_bit_width: Tensor) -> Tensor:
        """Bits that hold every sum of the products with input and hidden state, without the bias.

        ``ceil(log2((2**b_x - 1) * (2**b_w - 1) * (input_size + hidden_size) + 1))``.

        Args:
            input_bit_width: bits of input and hidden state, which share a quantizer.
            weight_bit_width: bits of the weights.

        Returns:
            Bits, 0-d.
        """
        terms = self.input_weight.weight.shape[1] + self.hidden_weight.weight.shape[1]
        bits = sum_bit_width((input_bit_width, weight_bit_width), terms)
        signed = self.input_weight.weight_quant.is_signed is not False
        return with_sign_bit(bits, (input_bit_width, True), (weight_bit_width, signed))

    def extra_repr(self) -> str:
        """Whether there is a bias."""
        return f"bias={self.bias is not None}"
