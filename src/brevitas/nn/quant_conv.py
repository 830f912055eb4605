"""Convolutions with quantized weight, bias, input and output. Layer: nn (L6)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brevitas.nn.mixin._older_names import older_padding_type, take_padding_type
from brevitas.nn.quant_layer import (
    ActQuantType,
    BiasQuantType,
    QuantWeightBiasInputOutputLayer,
    WeightQuantType,
)
from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer as QuantWBIOL
from brevitas.quant.scaled_int import Int8WeightPerTensorFloat
from brevitas.quant_tensor import QuantTensor

__all__ = ["QuantConv1d", "QuantConv2d", "QuantConv3d"]

Size = int | tuple[int, ...]


def _init(
    self: Any,
    in_channels: int,
    out_channels: int,
    kernel_size: Size,
    stride: Size = 1,
    padding: Size | str = 0,
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
    padding = take_padding_type(kwargs, padding)
    if isinstance(padding_mode, bool):
        raise TypeError(
            f"padding_mode={padding_mode!r}: expected a string such as 'zeros'. The eighth "
            "positional argument was bias in earlier releases: pass both by keyword."
        )
    strides = (stride,) if isinstance(stride, int) else tuple(stride)
    # PyTorch refuses padding="same" with a stride; it is computed in the forward pass instead.
    same_strided = padding == "same" and any(step > 1 for step in strides)
    self.float_class.__init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride,
        0 if same_strided else padding,
        dilation,
        groups,
        bool(bias),
        padding_mode,
        device,
        dtype,
    )
    self.is_same_padded_strided = same_strided
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


def _same_padding(self: Any, size: tuple[int, ...]) -> list[int]:
    """Padding of each dimension, last one first, that gives ``ceil(in / stride)`` outputs."""
    padding: list[int] = []
    for dim in reversed(range(len(size))):
        span = self.dilation[dim] * (self.kernel_size[dim] - 1) + 1
        steps = -(-size[dim] // self.stride[dim])
        total = max((steps - 1) * self.stride[dim] + span - size[dim], 0)
        padding += [total // 2, total - total // 2]
    return padding


def _same_zeros_pad_stride(self: Any, x: Any, weight: Any, bias: Any) -> Any:
    """Convolve with a stride after padding to ``ceil(in / stride)`` outputs."""
    spatial = tuple(x.shape[-len(self.kernel_size) :])
    mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
    x = F.pad(x, _same_padding(self, spatial), mode=mode)
    convolve = type(self).accumulator_function
    return convolve(x, weight, bias, self.stride, 0, self.dilation, self.groups)


def _inner_forward_impl(self: Any, x: Any, quant_weight: Any, quant_bias: Any) -> Any:
    """Return the convolution of quantized operands."""
    if self.is_same_padded_strided:
        return _same_zeros_pad_stride(self, x, quant_weight, quant_bias)
    return self._conv_forward(x, quant_weight, quant_bias)


def _forward(self: Any, input: Tensor | QuantTensor) -> Tensor | QuantTensor:
    """Return the quantized convolution of ``input``, ``[N, out_channels, ...]``."""
    return self.forward_impl(input)


class QuantConv1d(QuantWeightBiasInputOutputLayer, nn.Conv1d):
    """``torch.nn.Conv1d`` with quantizers for weight, bias, input and output.

    Takes the arguments of ``torch.nn.Conv1d`` and those of ``QuantLinear``; ``padding="same"``
    works with a stride as well and gives ``ceil(L / stride)`` outputs.

    Shapes:
        input ``[N, in_channels, L]``, weight ``[out_channels, in_channels / groups, k]``.

    Example:
        >>> QuantConv1d(2, 4, 3, stride=2, padding="same")(torch.randn(1, 2, 9)).shape
        torch.Size([1, 4, 5])
    """

    float_class = nn.Conv1d
    accumulator_function = torch.conv1d
    output_channel_dim: Any = 0
    padding_type = older_padding_type
    __init__: Any = _init
    forward = _forward
    inner_forward_impl = _inner_forward_impl
    conv1d_same_zeros_pad_stride = _same_zeros_pad_stride


class QuantConv2d(QuantWeightBiasInputOutputLayer, nn.Conv2d):
    """``torch.nn.Conv2d`` with quantizers for weight, bias, input and output.

    Takes the arguments of ``torch.nn.Conv2d`` and those of ``QuantLinear``; ``padding="same"``
    works with a stride as well and gives ``ceil(H / stride)`` by ``ceil(W / stride)`` outputs.

    Shapes:
        input ``[N, in_channels, H, W]``, weight ``[out_channels, in_channels / groups, kh, kw]``.

    Example:
        >>> layer = QuantConv2d(2, 4, 3, weight_scaling_per_output_channel=True)
        >>> layer(torch.randn(1, 2, 5, 5)).shape, layer.quant_weight().scale.shape
        (torch.Size([1, 4, 3, 3]), torch.Size([4, 1, 1, 1]))
    """

    float_class = nn.Conv2d
    accumulator_function = torch.conv2d
    output_channel_dim: Any = 0
    padding_type = older_padding_type
    __init__: Any = _init
    forward = _forward
    inner_forward_impl = _inner_forward_impl
    conv2d_same_zeros_pad_stride = _same_zeros_pad_stride


class QuantConv3d(QuantWeightBiasInputOutputLayer, nn.Conv3d):
    """``torch.nn.Conv3d`` with quantizers for weight, bias, input and output.

    Takes the arguments of ``torch.nn.Conv3d`` and those of ``QuantLinear``.

    Shapes:
        input ``[N, in_channels, D, H, W]``,
        weight ``[out_channels, in_channels / groups, kd, kh, kw]``.

    Example:
        >>> QuantConv3d(2, 4, 3)(torch.randn(1, 2, 5, 5, 5)).shape
        torch.Size([1, 4, 3, 3, 3])
    """

    float_class = nn.Conv3d
    accumulator_function = torch.conv3d
    output_channel_dim: Any = 0
    padding_type = older_padding_type
    __init__: Any = _init
    forward = _forward
    inner_forward_impl = _inner_forward_impl
    conv3d_same_zeros_pad_stride = _same_zeros_pad_stride
