"""Layers that select among quantized values, by names of earlier releases. Layer: nn (L6).

Any ``torch.nn`` layer that only selects elements keeps a quantized tensor quantized by itself, so
that today ``torch.nn.MaxPool2d`` and ``torch.nn.Dropout`` do what these classes are for.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from brevitas.nn.mixin.base import QuantLayerMixin, SeparableLayerMixin
from brevitas.quant_tensor import QuantTensor, _unpack_quant_tensor

__all__ = ["QuantDropout", "QuantMaxPool1d", "QuantMaxPool2d"]

Size = int | tuple[int, ...]


class PassthroughMixin(SeparableLayerMixin):
    """Returns what the float layer behind it in the bases makes of a quantized or plain tensor."""

    def forward(self, input: Tensor | QuantTensor) -> Any:
        """Return the layer's output, quantized where the input is and the layer is to keep that."""
        output = super().forward(input)  # type: ignore[misc]
        return output if self.return_quant_tensor else _unpack_quant_tensor(output)


class MaxPoolMixin(PassthroughMixin):
    """A max pool of any number of dimensions; the float layer follows in the bases."""

    #: The float layer.
    float_class: Any

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        return_quant_tensor: bool = True,
    ) -> None:
        arguments: Any = (kernel_size, stride, padding, dilation, return_indices, ceil_mode)
        self.float_class.__init__(self, *arguments)
        QuantLayerMixin.__init__(self, return_quant_tensor)


class QuantMaxPool1d(MaxPoolMixin, nn.MaxPool1d):
    """``torch.nn.MaxPool1d``, by its older name; arguments as there.

    Args:
        return_quant_tensor: keep scale, zero point and bit width of a quantized input.

    Example:
        >>> import torch
        >>> QuantMaxPool1d(2)(torch.tensor([[[1.0, 3.0, 2.0, 0.0]]]))
        tensor([[[3., 2.]]])
    """

    float_class = nn.MaxPool1d


class QuantMaxPool2d(MaxPoolMixin, nn.MaxPool2d):
    """``torch.nn.MaxPool2d``, by its older name; arguments as there.

    Args:
        return_quant_tensor: keep scale, zero point and bit width of a quantized input.

    Example:
        >>> import torch
        >>> QuantMaxPool2d(2)(torch.ones(1, 1, 4, 4)).shape
        torch.Size([1, 1, 2, 2])
    """

    float_class = nn.MaxPool2d


class QuantDropout(PassthroughMixin, nn.Dropout):
    """``torch.nn.Dropout``, by its older name.

    Args:
        p: probability that an element becomes zero in training.
        return_quant_tensor: keep scale, zero point and bit width of a quantized input.

    Example:
        >>> import torch
        >>> QuantDropout().eval()(torch.ones(2))
        tensor([1., 1.])
    """

    def __init__(self, p: float = 0.5, return_quant_tensor: bool = True) -> None:
        nn.Dropout.__init__(self, p)
        QuantLayerMixin.__init__(self, return_quant_tensor)
