"""Average pools of integers: sum, then truncate. Layer: nn (L6).

The average of n integers at scale s is their sum at scale s / n: exact, with more bits. Truncating
the sum to fewer bits, by a shift, gives integers at a scale that is a power of two coarser.
"""

from __future__ import annotations

from math import prod
from typing import Any

from torch import Tensor, nn

from brevitas.common import QuantLayerConfigurationError
from brevitas.nn.mixin.acc import AccQuantType, TruncMixin
from brevitas.nn.mixin.base import KeywordReport, QuantLayerMixin
from brevitas.proxy.runtime_quant import TruncQuantProxyFromInjector
from brevitas.quant.scaled_int import RoundTo8bit
from brevitas.quant_tensor import IntQuantTensor, QuantTensor
from brevitas.quant_tensor.int_torch_handler import adaptive_window_elements, spread

__all__ = ["AccQuantType", "TruncAdaptiveAvgPool2d", "TruncAvgPool2d"]


class TruncAvgPool2d(TruncMixin, QuantLayerMixin, nn.AvgPool2d):
    """``torch.nn.AvgPool2d`` of integers: the sum of each window, truncated.

    With ``q`` the integers of the input at scale s, and ``n`` those in a window::

        y = round(sum(q) / steps) * (s / n * steps),  steps = 2 ** (sum's bits - output's bits)

    The sum has ``b + ceil(log2(n))`` bits for signed input of b bits, so that it never overflows.
    A quantizer with ``keeps_scale=True`` gives ``y = round(sum(q) / steps) * s`` instead, the
    meaning of older releases and of version 1 of QONNX's ``Trunc``.

    Args:
        kernel_size: size of the window.
        stride: distance between windows; the size of the window by default.
        ceil_mode: let windows hang over the border; refused where one does.
        count_include_pad: as in ``torch.nn.AvgPool2d``.
        divisor_override: number to divide the sum by, in place of ``n``.
        trunc_quant: quantizer of the sum; None returns the sum, with all its bits.
        return_quant_tensor: return the output with scale, zero point and bit width.
        **kwargs: declarations of the quantizer, e.g. ``bit_width=4``.

    Raises:
        QuantLayerConfigurationError: in ``forward``, where windows hold different numbers of
            elements, which no single scale can average.

    Example:
        >>> integers = torch.tensor([[[[3.0, 5.0], [7.0, -9.0]]]])
        >>> x = IntQuantTensor(integers, 1.0, 0.0, 8, signed=True, training=False)
        >>> y = TruncAvgPool2d(2)(x)
        >>> y.value, y.scale, y.bit_width  # (3 + 5 + 7 - 9) / 4 = 1.5
        (tensor([[[[2.]]]]), tensor(1.), tensor(8.))
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        trunc_quant: AccQuantType | None = RoundTo8bit,
        return_quant_tensor: bool = True,
        **kwargs: Any,
    ) -> None:
        nn.AvgPool2d.__init__(
            self, kernel_size, stride, 0, ceil_mode, count_include_pad, divisor_override
        )
        QuantLayerMixin.__init__(self, return_quant_tensor)
        report = KeywordReport(self, kwargs)
        self.attach_trunc_quant(trunc_quant, report)
        report.warn_unused()

    @property
    def channelwise_separable(self) -> bool:
        """True: channels are pooled one by one."""
        return True

    def forward(self, input: Tensor | QuantTensor) -> Tensor | QuantTensor:
        """Return the pooled input, ``[..., channels, height, width]``."""
        x: Any = self.unpack_input(input)
        divisor = self.divisor_override or prod(spread(self.kernel_size, 2))
        return self.pack_output(_truncate(self, x, nn.AvgPool2d.forward(self, x), divisor))


class TruncAdaptiveAvgPool2d(TruncMixin, QuantLayerMixin, nn.AdaptiveAvgPool2d):
    """``torch.nn.AdaptiveAvgPool2d`` of integers; see ``TruncAvgPool2d``.

    Args:
        output_size: height and width of the output, one number for both; None keeps the input's.
        trunc_quant: quantizer of the sum; None returns the sum, with all its bits.
        return_quant_tensor: return the output with scale, zero point and bit width.
        **kwargs: declarations of the quantizer, e.g. ``bit_width=4``.

    Raises:
        QuantLayerConfigurationError: in ``forward``, where windows hold different numbers of
            elements, which no single scale can average.

    Example:
        >>> x = IntQuantTensor(torch.ones(1, 3, 4, 4), 1.0, 0.0, 8, True, False)
        >>> TruncAdaptiveAvgPool2d(1)(x).value.flatten()
        tensor([1., 1., 1.])
    """

    def __init__(
        self,
        output_size: int | tuple[int | None, int | None],
        trunc_quant: AccQuantType | None = RoundTo8bit,
        return_quant_tensor: bool = True,
        **kwargs: Any,
    ) -> None:
        nn.AdaptiveAvgPool2d.__init__(self, output_size)
        QuantLayerMixin.__init__(self, return_quant_tensor)
        report = KeywordReport(self, kwargs)
        self.attach_trunc_quant(trunc_quant, report)
        report.warn_unused()

    @property
    def channelwise_separable(self) -> bool:
        """True: channels are pooled one by one."""
        return True

    @property
    def padding(self) -> int:
        """0: windows lie inside of the input."""
        return 0

    @staticmethod
    def compute_kernel_size_stride(
        input_shape: tuple[int, ...], output_shape: tuple[int, ...]
    ) -> tuple[list[int], list[int]]:
        """Sizes and distances of the windows of an average pool that gives an output shape.

        Args:
            input_shape: sizes of the dimensions that are pooled.
            output_shape: sizes of the same dimensions afterwards.

        Example:
            >>> TruncAdaptiveAvgPool2d.compute_kernel_size_stride((7, 6), (3, 2))
            ([3, 3], [2, 3])
        """
        pairs = list(zip(input_shape, output_shape, strict=True))
        strides = [size // count for size, count in pairs]
        kernel = [
            size - (count - 1) * stride
            for (size, count), stride in zip(pairs, strides, strict=True)
        ]
        return kernel, strides

    def forward(self, input: Tensor | QuantTensor) -> Tensor | QuantTensor:
        """Return the pooled input, ``[..., channels, *output_size]``."""
        x: Any = self.unpack_input(input)
        pooled: Any = nn.AdaptiveAvgPool2d.forward(self, x)
        elements = adaptive_window_elements(x.shape[-2:], pooled.shape[-2:])
        return self.pack_output(_truncate(self, x, pooled, elements))


def _truncate(layer: Any, x: Any, pooled: Any, divisor: int | None) -> Any:
    """Truncate the sums of windows, which ``pooled`` holds divided by ``divisor``."""
    if not layer.is_trunc_quant_enabled or not isinstance(x, QuantTensor):
        return pooled
    if not isinstance(pooled, IntQuantTensor):
        raise QuantLayerConfigurationError(
            f"input of shape {tuple(x.shape)}, scale of shape {tuple(x.scale.shape)}: expected "
            "windows of equally many elements, and a scale that is the same in each of them; "
            "choose sizes that divide the input's, or set trunc_quant=None and "
            f"return_quant_tensor=False. Layer: {type(layer).__name__}({layer.extra_repr()})"
        )
    proxy = layer.trunc_quant
    if divisor and isinstance(proxy, TruncQuantProxyFromInjector) and proxy.keeps_scale:
        pooled = pooled.set(value=pooled.value * divisor, scale=pooled.scale * divisor)
    return proxy(pooled)
