"""Accumulators, such as the sums of a layer, with fewer bits. Layer: nn (L6)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from brevitas.nn.mixin.acc import AccQuantType, QuantClampMixin, TruncMixin
from brevitas.nn.mixin.base import KeywordReport, QuantLayerMixin
from brevitas.quant_tensor import QuantTensor

__all__ = ["AccQuantType", "ClampQuantAccumulator", "TruncQuantAccumulator"]


class TruncQuantAccumulator(TruncMixin, QuantLayerMixin, nn.Module):
    """Drop the low bits of a quantized accumulator.

    Args:
        trunc_quant: quantizer of the accumulator, e.g. ``TruncTo8bit``; None keeps all bits.
        return_quant_tensor: return the output with scale, zero point and bit width.
        **kwargs: declarations of the quantizer, e.g. ``bit_width=4``.

    Example:
        >>> import torch
        >>> from brevitas.nn import QuantLinear
        >>> from brevitas.quant import Int8ActPerTensorFloat, TruncTo8bit
        >>> layer = QuantLinear(8, 4, input_quant=Int8ActPerTensorFloat, return_quant_tensor=True)
        >>> sums = layer(torch.randn(2, 8))
        >>> sums.bit_width, TruncQuantAccumulator(trunc_quant=TruncTo8bit)(sums).bit_width
        (tensor(19.), tensor(8.))
    """

    def __init__(
        self,
        trunc_quant: AccQuantType | None = None,
        return_quant_tensor: bool = True,
        **kwargs: Any,
    ) -> None:
        nn.Module.__init__(self)
        QuantLayerMixin.__init__(self, return_quant_tensor)
        report = KeywordReport(self, kwargs)
        self.attach_trunc_quant(trunc_quant, report)
        report.warn_unused()

    @property
    def channelwise_separable(self) -> bool:
        """True: an accumulator is truncated element by element."""
        return True

    def forward(self, input: Tensor | QuantTensor) -> Tensor | QuantTensor:
        """Return the truncated accumulator, of the shape of ``input``."""
        return self.pack_output(self.trunc_quant(self.unpack_input(input)))


class ClampQuantAccumulator(QuantClampMixin, QuantLayerMixin, nn.Module):
    """Drop the high bits of a quantized accumulator: values beyond the range saturate.

    Args:
        clamp_quant: quantizer of the accumulator, made from ``ClampQuantSolver``; None keeps all
            bits.
        return_quant_tensor: return the output with scale, zero point and bit width.
        **kwargs: declarations of the quantizer, e.g. ``bit_width=16``.

    Example:
        >>> from brevitas.quant.base import IntQuant
        >>> from brevitas.quant.solver import ClampQuantSolver
        >>> class ClampTo16bit(IntQuant, ClampQuantSolver):
        ...     bit_width = 16
        >>> layer = ClampQuantAccumulator(clamp_quant=ClampTo16bit)
        >>> layer.is_quant_clamp_signed, layer.is_quant_clamp_narrow_range
        (True, False)
    """

    def __init__(
        self,
        clamp_quant: AccQuantType | None = None,
        return_quant_tensor: bool = True,
        **kwargs: Any,
    ) -> None:
        nn.Module.__init__(self)
        QuantLayerMixin.__init__(self, return_quant_tensor)
        report = KeywordReport(self, kwargs)
        self.attach_clamp_quant(clamp_quant, report)
        report.warn_unused()

    @property
    def channelwise_separable(self) -> bool:
        """True: an accumulator is clamped element by element."""
        return True

    def forward(self, input: Tensor | QuantTensor) -> Tensor | QuantTensor:
        """Return the clamped accumulator, of the shape of ``input``."""
        return self.pack_output(self.clamp_quant(self.unpack_input(input)))
