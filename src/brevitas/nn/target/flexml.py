"""Layers as FlexML accelerators compute them: powers of two, wide registers. Layer: nn (L6)."""

from __future__ import annotations

from math import ceil, log2, prod
from typing import Any

import torch
from torch import Tensor, nn

from brevitas.core.utils import StatelessBuffer
from brevitas.inject import InjectorMeta
from brevitas.nn.mixin.base import QuantLayerMixin
from brevitas.nn.quant_activation import QuantIdentity
from brevitas.quant.base import IntQuant, MaxStatsScaling, PerTensorFloatScaling8bit
from brevitas.quant.fixed_point import Int8ActPerTensorFixedPoint, Uint8ActPerTensorFixedPoint
from brevitas.quant.solver.act import ActQuantSolver
from brevitas.quant_tensor import IntQuantTensor, QuantTensor, plain
from brevitas.quant_tensor.int_torch_handler import spread

__all__ = ["FlexMLQuantAvgPool2d", "FlexMLQuantLeakyReLU"]


class FlexMLQuantLeakyReLU(nn.Module):
    """``y = output_quant(max(q(x), 0) + alpha_quant(negative_slope) * min(q(x), 0))``.

    Args:
        negative_slope: factor of negative inputs.
        alpha_quant: layer that quantizes the slope; 16 bits, unsigned, fixed point by default.
        input_quant: layer that quantizes the input; 16 bits, signed, fixed point by default.
        output_quant: layer that quantizes the output; 8 bits, signed, fixed point by default.

    Example:
        >>> layer = FlexMLQuantLeakyReLU(0.125)
        >>> _ = layer(torch.tensor([2.0, -2.0]))  # learns its scales, then
        >>> layer.eval()(torch.tensor([2.0, -2.0])).value
        tensor([ 1.9844, -0.2500])
    """

    def __init__(
        self,
        negative_slope: float,
        alpha_quant: nn.Module | None = None,
        input_quant: nn.Module | None = None,
        output_quant: nn.Module | None = None,
    ) -> None:
        super().__init__()
        signed, unsigned = Int8ActPerTensorFixedPoint, Uint8ActPerTensorFixedPoint
        self.alpha_quant = alpha_quant or QuantIdentity(unsigned, bit_width=16)
        self.input_quant = input_quant or QuantIdentity(signed, bit_width=16)
        self.output_quant = output_quant or QuantIdentity(signed, return_quant_tensor=True)
        self.negative_slope = StatelessBuffer(negative_slope)

    @property
    def act_quant(self) -> Any:
        """Proxy that quantizes the output."""
        return self.output_quant.act_quant

    @property
    def is_quant_act_signed(self) -> bool | None:
        """Whether the output is signed."""
        return self.act_quant.is_signed

    def forward(self, inp: Tensor | QuantTensor) -> Tensor | QuantTensor:
        """Return the quantized activation, of the shape of the input."""
        x = plain(self.input_quant(inp))
        slope = plain(self.alpha_quant(self.negative_slope()))
        return self.output_quant(torch.where(x >= 0, x, x * slope))


class FlexMLQuantAvgPool2d(QuantLayerMixin, nn.AvgPool2d):
    """Average pool whose division is a multiplication by a quantized reciprocal.

    With ``q`` the integers of the input at scale s, n elements in a window, and the integer r at
    scale t closest to ``1 / n``: ``y = sum(q) * r`` at scale ``s * t``.

    Args:
        kernel_size: size of the window.
        stride: distance between windows; the size of the window by default.
        padding: zeros around the input.
        ceil_mode: as in ``torch.nn.AvgPool2d``.
        div_quant: quantizer of the reciprocal.
        return_quant_tensor: return the output with scale, zero point and bit width.

    Example:
        >>> x = IntQuantTensor(torch.ones(1, 1, 2, 2), 1.0, 0.0, 8, True, False)
        >>> y = FlexMLQuantAvgPool2d(2)(x)
        >>> y.int().item(), y.value.item(), y.bit_width  # 4 * 127 at scale 1 / 512
        (508, 0.9921875, tensor(17.))
    """

    class Int16QuantAvgPoolDivQuant(
        IntQuant, MaxStatsScaling, PerTensorFloatScaling8bit, ActQuantSolver
    ):
        """The reciprocal of a window's size, signed, with the scale of its own magnitude."""

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
        ceil_mode: bool = False,
        div_quant: InjectorMeta = Int16QuantAvgPoolDivQuant,
        return_quant_tensor: bool = True,
    ) -> None:
        nn.AvgPool2d.__init__(self, kernel_size, stride, padding, ceil_mode)
        QuantLayerMixin.__init__(self, return_quant_tensor)
        elements = prod(spread(kernel_size, 2))
        with torch.device("cpu"):  # these are numbers, wherever the layer is built
            quantized, scale, *_ = div_quant.tensor_quant(torch.tensor(1 / elements))
        self.quantized_div_scale = float(scale)
        self.quantized_div_int_value = round(float(quantized / scale))
        #: What the quantized reciprocal is off by, as a factor.
        self.rescaling_const = float(quantized) * elements

    @property
    def channelwise_separable(self) -> bool:
        """True: channels are pooled one by one."""
        return True

    @property
    def requires_export_handler(self) -> bool:
        """True: no standard operator holds the quantized reciprocal."""
        return True

    def max_acc_bit_width(self, input_bit_width: Tensor) -> Tensor:
        """Bits that hold the sum of a window times the quantized reciprocal."""
        elements = prod(spread(self.kernel_size, 2))
        return input_bit_width + ceil(log2(elements * self.quantized_div_int_value))

    def forward(self, input: Tensor | QuantTensor) -> Tensor | QuantTensor:
        """Return the pooled input, ``[..., channels, height, width]``."""
        x: Any = self.unpack_input(input)
        pooled: Any = nn.AvgPool2d.forward(self, x)
        if not isinstance(x, IntQuantTensor):
            return self.pack_output(pooled)
        value = plain(pooled) * self.rescaling_const
        if not isinstance(pooled, IntQuantTensor):
            return self.pack_output(value)  # windows of different sizes
        steps = prod(spread(self.kernel_size, 2)) * self.quantized_div_scale
        bit_width = self.max_acc_bit_width(x.bit_width)
        output = pooled.set(value=value, scale=pooled.scale * steps, bit_width=bit_width)
        return self.pack_output(output)
