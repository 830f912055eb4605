"""Transposed convolutions with quantized weight, bias, input and output. Layer: nn (L6)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from brevitas.nn.mixin._older_names import take_padding_type
from brevitas.nn.quant_layer import (
    ActQuantType,
    BiasQuantType,
    QuantWeightBiasInputOutputLayer,
    WeightQuantType,
)
from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer as QuantWBIOL
from brevitas.quant.scaled_int import Int8WeightPerTensorFloat
from brevitas.quant_tensor import QuantTensor, _unpack_quant_tensor

__all__ = ["QuantConvTranspose1d", "QuantConvTranspose2d", "QuantConvTranspose3d"]

Size = int | tuple[int, ...]


def _init(
    self: Any,
    in_channels: int,
    out_channels: int,
    kernel_size: Size,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
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
    """Initialise the float convolution first, so that a seed gives its weights; then quantizers."""
    padding = take_padding_type(kwargs, padding, transposed=True)
    self.float_class.__init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride,
        padding,
        output_padding,
        groups,
        bool(bias),
        dilation,
        padding_mode,
        device,
        dtype,
    )
    self._output_padding_of_call = None
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


def _compute_output_padding(self: Any, inp: Any, output_size: list[int] | None) -> tuple[int, ...]:
    """Padding of the output that gives ``output_size``; the layer's own for None."""
    spatial = len(self.kernel_size)
    return tuple(
        self._output_padding(
            _unpack_quant_tensor(inp),
            output_size,
            self.stride,
            self.padding,
            self.kernel_size,
            spatial,
            self.dilation,
        )
    )


def _zeros_pad(self: Any, x: Any, weight: Any, bias: Any, output_padding: Size) -> Any:
    """Transposed convolution of quantized operands."""
    convolve = type(self).accumulator_function
    return convolve(
        x, weight, bias, self.stride, self.padding, output_padding, self.groups, self.dilation
    )


def _inner_forward_impl(self: Any, x: Any, quant_weight: Any, quant_bias: Any) -> Any:
    """Return the transposed convolution of quantized operands."""
    padding = self._output_padding_of_call
    padding = self.output_padding if padding is None else padding
    return _zeros_pad(self, x, quant_weight, quant_bias, padding)


def _forward(
    self: Any, input: Tensor | QuantTensor, output_size: list[int] | None = None
) -> Tensor | QuantTensor:
    """Return the quantized transposed convolution of ``input``, ``[N, out_channels, ...]``."""
    if output_size is None:
        return self.forward_impl(input)
    self._output_padding_of_call = _compute_output_padding(self, input, output_size)
    try:
        return self.forward_impl(input)
    finally:
        self._output_padding_of_call = None


class QuantConvTranspose1d(QuantWeightBiasInputOutputLayer, nn.ConvTranspose1d):
    """``torch.nn.ConvTranspose1d`` with quantizers for weight, bias, input and output.

    Takes the arguments of ``torch.nn.ConvTranspose1d`` and those of ``QuantLinear``.

    Shapes:
        input ``[N, in_channels, L]``, weight ``[in_channels, out_channels / groups, k]``.

    Example:
        >>> QuantConvTranspose1d(2, 4, 3, stride=2)(torch.randn(1, 2, 5)).shape
        torch.Size([1, 4, 11])
    """

    float_class = nn.ConvTranspose1d
    accumulator_function = torch.conv_transpose1d
    output_channel_dim: Any = 1
    __init__: Any = _init
    forward = _forward
    inner_forward_impl = _inner_forward_impl
    compute_output_padding = _compute_output_padding
    conv_transpose1d_zeros_pad = _zeros_pad


class QuantConvTranspose2d(QuantWeightBiasInputOutputLayer, nn.ConvTranspose2d):
    """``torch.nn.ConvTranspose2d`` with quantizers for weight, bias, input and output.

    Takes the arguments of ``torch.nn.ConvTranspose2d`` and those of ``QuantLinear``.

    Shapes:
        input ``[N, in_channels, H, W]``, weight ``[in_channels, out_channels / groups, kh, kw]``.

    Example:
        >>> layer = QuantConvTranspose2d(2, 4, 3, stride=2)
        >>> layer(torch.randn(1, 2, 5, 5), output_size=[12, 12]).shape
        torch.Size([1, 4, 12, 12])
    """

    float_class = nn.ConvTranspose2d
    accumulator_function = torch.conv_transpose2d
    output_channel_dim: Any = 1
    __init__: Any = _init
    forward = _forward
    inner_forward_impl = _inner_forward_impl
    compute_output_padding = _compute_output_padding
    conv_transpose2d_zeros_pad = _zeros_pad


class QuantConvTranspose3d(QuantWeightBiasInputOutputLayer, nn.ConvTranspose3d):
    """``torch.nn.ConvTranspose3d`` with quantizers for weight, bias, input and output.

    Takes the arguments of ``torch.nn.ConvTranspose3d`` and those of ``QuantLinear``.

    Shapes:
        input ``[N, in_channels, D, H, W]``,
        weight ``[in_channels, out_channels / groups, kd, kh, kw]``.

    Example:
        >>> QuantConvTranspose3d(2, 4, 2)(torch.randn(1, 2, 3, 3, 3)).shape
        torch.Size([1, 4, 4, 4, 4])
    """

    float_class = nn.ConvTranspose3d
    accumulator_function = torch.conv_transpose3d
    output_channel_dim: Any = 1
    __init__: Any = _init
    forward = _forward
    inner_forward_impl = _inner_forward_impl
    compute_output_padding = _compute_output_padding
    conv_transpose3d_zeros_pad = _zeros_pad
