"""Upsampling of quantized images, to integers of the same grid. Layer: nn (L6)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from brevitas.nn.mixin.base import QuantLayerMixin, SeparableLayerMixin
from brevitas.ops.autograd_ste_ops import round_ste_impl, tensor_clamp_ste_impl
from brevitas.quant_tensor import IntQuantTensor, QuantTensor

__all__ = ["QuantUpsample", "QuantUpsamplingBilinear2d", "QuantUpsamplingNearest2d"]

Size = int | tuple[int, ...] | None
Factor = float | tuple[float, ...] | None


class QuantUpsampleMixin(SeparableLayerMixin):
    """Interpolates quantized tensors on their own grid, before the float layer in the bases."""

    def forward(self, input: Tensor | QuantTensor) -> Tensor | QuantTensor:
        """Return the upsampled input, ``[..., channels, *size]``."""
        x = self.unpack_input(input)
        y = super().forward(x)  # type: ignore[misc]
        if isinstance(x, IntQuantTensor) and not isinstance(y, QuantTensor):
            y = _on_grid_of(x, y)
        return self.pack_output(y)


class QuantUpsample(QuantUpsampleMixin, nn.Upsample):
    """``torch.nn.Upsample`` of quantized tensors, by any of its modes.

    With the nearest modes, elements are copied. With others, ``y = round(x')`` in integers, where
    ``x'`` is the interpolation: scale, zero point and bit width are those of the input.

    Args:
        size: size of the output.
        scale_factor: size of the output as a multiple of the input's.
        mode: ``nearest``, ``nearest-exact``, ``linear``, ``bilinear``, ``bicubic``, ``trilinear``.
        align_corners: as in ``torch.nn.Upsample``.
        return_quant_tensor: return the output with scale, zero point and bit width.

    Example:
        >>> import torch
        >>> x = IntQuantTensor(torch.tensor([[[1.0, 4.0]]]), 1.0, 0.0, 4, True, False)
        >>> QuantUpsample(scale_factor=2, mode="linear")(x).value  # 1, 1.75, 3.25, 4 rounded
        tensor([[[1., 2., 3., 4.]]])
    """

    def __init__(
        self,
        size: Size = None,
        scale_factor: Factor = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        return_quant_tensor: bool = True,
    ) -> None:
        arguments: Any = (size, scale_factor, mode, align_corners)
        nn.Upsample.__init__(self, *arguments)
        QuantLayerMixin.__init__(self, return_quant_tensor)


class QuantUpsamplingBilinear2d(QuantUpsampleMixin, nn.UpsamplingBilinear2d):
    """``torch.nn.UpsamplingBilinear2d`` of quantized tensors; see ``QuantUpsample``.

    Args:
        size: height and width of the output.
        scale_factor: size of the output as a multiple of the input's.
        return_quant_tensor: return the output with scale, zero point and bit width.

    Example:
        >>> import torch
        >>> x = IntQuantTensor(torch.ones(1, 2, 3, 3), 1.0, 0.0, 4, True, False)
        >>> QuantUpsamplingBilinear2d(scale_factor=2)(x).shape
        torch.Size([1, 2, 6, 6])
    """

    def __init__(
        self, size: Size = None, scale_factor: Factor = None, return_quant_tensor: bool = True
    ) -> None:
        arguments: Any = (size, scale_factor)
        nn.UpsamplingBilinear2d.__init__(self, *arguments)
        QuantLayerMixin.__init__(self, return_quant_tensor)


class QuantUpsamplingNearest2d(QuantUpsampleMixin, nn.UpsamplingNearest2d):
    """``torch.nn.UpsamplingNearest2d`` of quantized tensors: elements are copied.

    Args:
        size: height and width of the output.
        scale_factor: size of the output as a multiple of the input's.
        return_quant_tensor: return the output with scale, zero point and bit width.

    Example:
        >>> import torch
        >>> x = IntQuantTensor(torch.ones(1, 2, 3, 3), 1.0, 0.0, 4, True, False)
        >>> QuantUpsamplingNearest2d(size=(4, 5))(x).shape
        torch.Size([1, 2, 4, 5])
    """

    def __init__(
        self, size: Size = None, scale_factor: Factor = None, return_quant_tensor: bool = True
    ) -> None:
        arguments: Any = (size, scale_factor)
        nn.UpsamplingNearest2d.__init__(self, *arguments)
        QuantLayerMixin.__init__(self, return_quant_tensor)


def _on_grid_of(x: IntQuantTensor, value: Tensor) -> IntQuantTensor:
    """Round ``value`` to integers of ``x``; bicubic overshoots their range, and clamps."""
    integer = round_ste_impl(value / x.scale + x.zero_point)
    low, high = x._range()
    integer = tensor_clamp_ste_impl(integer, low, high)
    return x.set(value=(integer - x.zero_point) * x.scale)
