"""A classifier whose weights are a fixed Hadamard matrix: additions only. Layer: nn (L6)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brevitas.function.hadamard import hadamard_matrix
from brevitas.nn.mixin.base import QuantLayerMixin
from brevitas.quant_tensor import IntQuantTensor, QuantTensor, plain
from brevitas.quant_tensor._int_mixin import known_no_zero_point

__all__ = ["HadamardClassifier"]


class HadamardClassifier(QuantLayerMixin, nn.Module):
    """``y = -scale * (x / |x|) @ H.T``, with H rows of a Hadamard matrix and one learned scale.

    ``|x|`` is the Euclidean norm of the whole input, so that one scale serves the output.

    Args:
        in_channels: number of features.
        out_channels: number of classes.
        fixed_scale: keep the scale at its start value, ``1 / sqrt(out_channels)``.
        return_quant_tensor: return the output with scale, zero point and bit width.

    Shapes:
        input ``[..., in_channels]``, output ``[..., out_channels]``.

    Example:
        >>> HadamardClassifier(8, 4)(torch.randn(3, 8)).shape
        torch.Size([3, 4])

    Reference: Hoffer et al., "Fix your classifier: the marginal value of training the last weight
    layer", 2018.
    """

    scale: Tensor
    proj: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        fixed_scale: bool = False,
        return_quant_tensor: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Module.__init__(self)
        QuantLayerMixin.__init__(self, return_quant_tensor)
        for name, size in (("in_channels", in_channels), ("out_channels", out_channels)):
            if size < 1:
                raise ValueError(
                    f"{name}={size!r}: expected an int >= 1. Layer: HadamardClassifier"
                )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.eps = 1e-8
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        # A constant of the layer, not of a checkpoint.
        matrix = hadamard_matrix(max(in_channels, out_channels), **factory)
        self.register_buffer("proj", matrix, persistent=False)
        scale = torch.full((), 1 / math.sqrt(out_channels), **factory)
        if fixed_scale:
            self.register_buffer("scale", scale)
        else:
            self.scale = nn.Parameter(scale)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> HadamardClassifier:
        super()._apply(fn, recurse)
        if type(self.proj) is Tensor and not self.proj.is_meta:  # it comes back from `to_empty`
            self.proj.copy_(hadamard_matrix(self.proj.shape[0], self.proj.device, self.proj.dtype))
        return self

    @property
    def channelwise_separable(self) -> bool:
        """False: each output depends on all inputs."""
        return False

    def extra_repr(self) -> str:
        """Return the arguments as they are printed."""
        return f"in_channels={self.in_channels}, out_channels={self.out_channels}"

    def max_output_bit_width(self, input_bit_width: Tensor) -> Tensor:
        """Bits of the output: those of the input, and as many as count its summands.

        Enough for every input but one: the most negative integer in all places of a row, whose
        negated sum is one beyond the range. Integers in narrow range never get there.
        """
        return input_bit_width + math.ceil(math.log2(self.in_channels))

    def forward(self, inp: Tensor | QuantTensor) -> Tensor | QuantTensor:
        """Return the scores of all classes, ``[..., out_channels]``."""
        x: Any = self.unpack_input(inp)
        value = plain(x)
        factor = -self.scale / (value.norm(p=2, keepdim=True) + self.eps)
        signs = self.proj[: self.out_channels, : self.in_channels]
        output = F.linear(value, signs) * factor
        if isinstance(x, IntQuantTensor):
            output = self._sums_of(x, output, factor)
        return self.pack_output(output)

    def _sums_of(self, x: IntQuantTensor, output: Tensor, factor: Tensor) -> IntQuantTensor:
        """The record around sums of the integers of ``x`` with either sign."""
        bits = self.max_output_bit_width(x.bit_width)
        no_zero_point = known_no_zero_point(x) is True
        if not (x.signed and no_zero_point):
            bits = bits + 1
        zero_point = x.zero_point if no_zero_point else torch.zeros_like(x.zero_point)
        # The minus sign stays with the integers: a scale is positive.
        fields = {"scale": x.scale * -factor, "bit_width": bits, "signed": True}
        return x.set(value=output, zero_point=zero_point, **fields)
