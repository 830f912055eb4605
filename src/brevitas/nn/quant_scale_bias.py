"""One factor and one offset per channel: what a folded batch normalization is. Layer: nn (L6)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from brevitas.nn.quant_layer import (
    ActQuantType,
    BiasQuantType,
    QuantWeightBiasInputOutputLayer,
    WeightQuantType,
)
from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer as QuantWBIOL
from brevitas.quant.scaled_int import Int8WeightPerTensorFloat
from brevitas.quant_tensor import QuantTensor

__all__ = ["QuantScaleBias", "ScaleBias"]


class ScaleBias(nn.Module):
    """``y = x * weight + bias`` with one weight and one bias per channel.

    Args:
        num_features: number of channels.
        bias: learn an offset, too.
        runtime_shape: shape in which both broadcast to the input, with -1 for the channels.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Example:
        >>> ScaleBias(3, bias=True)(torch.ones(2, 3, 4, 4)).shape
        torch.Size([2, 3, 4, 4])
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        num_features: int,
        bias: bool,
        runtime_shape: tuple[int, ...] = (1, -1, 1, 1),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.runtime_shape = tuple(runtime_shape)
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(torch.empty(num_features, **factory))
        offset = nn.Parameter(torch.empty(num_features, **factory)) if bias else None
        self.register_parameter("bias", offset)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Make the layer the identity: factors one, offsets zero."""
        nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        """Return the arguments as they are printed."""
        return (
            f"{self.num_features}, bias={self.bias is not None}, runtime_shape={self.runtime_shape}"
        )

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input * weight + bias``."""
        return scale_and_shift(input, self.weight, self.bias, self.runtime_shape)


class QuantScaleBias(QuantWeightBiasInputOutputLayer, ScaleBias):
    """``ScaleBias`` with quantizers: ``y = q(x) * q(weight) + q(bias)``.

    Args:
        num_features: number of channels.
        bias: learn an offset, too.
        weight_quant: quantizer of the factors; None leaves them in floating point.
        bias_quant: quantizer of the offsets.
        input_quant: quantizer of the input.
        output_quant: quantizer of the output.
        runtime_shape: shape in which both broadcast to the input, with -1 for the channels.
        return_quant_tensor: return the output with scale, zero point and bit width.
        device: device of parameters and quantizers.
        dtype: dtype of parameters and quantizers.
        **kwargs: declarations of the quantizers by prefix, e.g. ``weight_bit_width=4``.

    Example:
        >>> from brevitas.quant import Int8ActPerTensorFloat
        >>> layer = QuantScaleBias(
        ...     3, bias=False, input_quant=Int8ActPerTensorFloat, return_quant_tensor=True)
        >>> layer(torch.randn(2, 3, 4, 4)).bit_width
        tensor(16.)
    """

    def __init__(
        self,
        num_features: int,
        bias: bool,
        weight_quant: WeightQuantType | None = Int8WeightPerTensorFloat,
        bias_quant: BiasQuantType | None = None,
        input_quant: ActQuantType | None = None,
        output_quant: ActQuantType | None = None,
        runtime_shape: tuple[int, ...] = (1, -1, 1, 1),
        return_quant_tensor: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        ScaleBias.__init__(self, num_features, bias, runtime_shape, device, dtype)
        quantizers = (weight_quant, bias_quant, input_quant, output_quant)
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        QuantWBIOL.__init__(self, *quantizers, return_quant_tensor, **factory, **kwargs)

    @property
    def per_elem_ops(self) -> int:
        """2: one multiplication and one addition for each output element."""
        return 2

    @property
    def output_channel_dim(self) -> int:
        """0: the weight is ``[num_features]``."""
        return 0

    @property
    def out_channels(self) -> int:
        """Number of channels."""
        return self.num_features

    @property
    def channelwise_separable(self) -> bool:
        """True: channels are scaled one by one."""
        return True

    def max_acc_bit_width(self, input_bit_width: Tensor, quant_weight_bit_width: Tensor) -> Tensor:
        """Bits that hold every product of an input and a weight."""
        return input_bit_width + quant_weight_bit_width

    def forward(self, inp: Tensor | QuantTensor) -> Tensor | QuantTensor:
        """Return the quantized product and sum, of the shape of the input."""
        return self.forward_impl(inp)

    def inner_forward_impl(self, input: Any, quant_weight: Any, quant_bias: Any) -> Any:
        """Return ``input * quant_weight + quant_bias``."""
        if isinstance(quant_bias, QuantTensor) and not self.bias_quant.requires_input_scale:
            quant_bias = quant_bias.value  # on a grid of its own, which the product is not on
        return scale_and_shift(input, quant_weight, quant_bias, self.runtime_shape)


def scale_and_shift(x: Any, weight: Any, bias: Any, shape: tuple[int, ...]) -> Any:
    """Return ``x * weight + bias``, where ``shape`` is that of weight and bias, ``[channels]``."""
    scaled = x * weight.view(shape)
    return scaled if bias is None else scaled + bias.view(shape)
