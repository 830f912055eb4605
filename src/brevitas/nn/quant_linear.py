"""A fully connected layer with quantized weight, bias, input and output. Layer: nn (L6)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brevitas.nn.quant_layer import (
    ActQuantType,
    BiasQuantType,
    QuantWeightBiasInputOutputLayer,
    WeightQuantType,
)
from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer as QuantWBIOL
from brevitas.ops.requantized import linear
from brevitas.quant.scaled_int import Int8WeightPerTensorFloat
from brevitas.quant_tensor import QuantTensor

__all__ = ["QuantLinear"]


class QuantLinear(QuantWeightBiasInputOutputLayer, nn.Linear):
    """``torch.nn.Linear`` with quantizers: ``y = q(x) @ q(weight).T + q(bias)``.

    Args:
        in_features: size of the last dimension of the input.
        out_features: size of the last dimension of the output.
        bias: learn an additive bias.
        weight_quant: quantizer of the weight; None leaves it in floating point.
        bias_quant: quantizer of the bias.
        input_quant: quantizer of the input.
        output_quant: quantizer of the output.
        return_quant_tensor: return the output with scale, zero point and bit width.
        device: device of parameters and quantizers.
        dtype: dtype of parameters and quantizers.
        **kwargs: declarations of the quantizers by prefix, e.g. ``weight_bit_width=4``.

    Shapes:
        input ``[..., in_features]``, weight ``[out_features, in_features]``,
        output ``[..., out_features]``.

    Example:
        >>> layer = QuantLinear(8, 4, weight_bit_width=4)
        >>> layer(torch.randn(3, 8)).shape, layer.quant_weight().bit_width
        (torch.Size([3, 4]), tensor(4.))
    """

    accumulator_function = F.linear

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool | None = True,
        weight_quant: WeightQuantType | None = Int8WeightPerTensorFloat,
        bias_quant: BiasQuantType | None = None,
        input_quant: ActQuantType | None = None,
        output_quant: ActQuantType | None = None,
        return_quant_tensor: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        nn.Linear.__init__(self, in_features, out_features, bool(bias), device, dtype)
        QuantWBIOL.__init__(
            self,
            weight_quant,
            bias_quant,
            input_quant,
            output_quant,
            return_quant_tensor,
            device=device,
            dtype=dtype,
            **kwargs,
        )

    @property
    def output_channel_dim(self) -> int:
        """0: the weight is ``[out_features, in_features]``."""
        return 0

    @property
    def out_channels(self) -> int:
        """Number of output features."""
        return self.out_features

    @property
    def channelwise_separable(self) -> bool:
        """False: each output depends on all inputs."""
        return False

    def forward(self, input: Tensor | QuantTensor) -> Tensor | QuantTensor:
        """Return the quantized linear map of ``input``, ``[..., out_features]``."""
        return self.forward_impl(input)

    def inner_forward_impl(self, x: Any, quant_weight: Any, quant_bias: Any) -> Any:
        """Return ``x @ quant_weight.T + quant_bias``."""
        return linear(x, quant_weight, quant_bias)
