"""Truncation: an accumulator's integers become integers of fewer bits. Layer: core (L3)."""

from __future__ import annotations

from torch import Tensor, nn

from brevitas.core.function_wrapper.clamp import TensorClamp
from brevitas.core.quant._parts import check_parts
from brevitas.core.quant.delay import DelayWrapper
from brevitas.core.scaling._trunc import TruncMsbScaling
from brevitas.function.ops import max_int, min_int
from brevitas.function.ops_ste import round_ste
from brevitas.utils.torch_utils import widened

__all__ = ["TruncIntQuant"]


class TruncIntQuant(nn.Module):
    """Drop the low bits of integers: the operator ``Trunc`` of QONNX.

    With the integers ``q = round(x / scale + zero_point)`` and ``steps`` of them in one step of
    the result, ``q' = clamp(round'(q / steps))`` and ``y = (q' - zero_point') * scale'``, where

    - by default ``scale' = scale * steps`` and ``zero_point' = zero_point / steps``: the result
      stands for the same real values, as in version 2 of QONNX's domain;
    - with ``keeps_scale`` both stay, so that the real values become ``steps`` times smaller, as
      in version 1. That version has no clamp; here rounding cannot leave the range either.

    Args:
        float_to_int_impl: ``round'``, how the dropped bits are rounded.
        bit_width_impl: ``() -> bits`` of the result.
        trunc_scaling_impl: ``(q, input bits, output bits, signed) -> steps``; by default the most
            significant bits are kept.
        narrow_range: leave out the most negative integer (signed) or the largest one (unsigned).
        tensor_clamp_impl: clamp to the integer limits.
        quant_delay_steps: number of training steps that pass ``x`` through unchanged.
        keeps_scale: keep scale and zero point of the input, the older meaning of truncation.

    Example:
        >>> from brevitas.core.bit_width import BitWidthConst
        >>> from brevitas.core.function_wrapper import FloorSte
        >>> scale, zero_point, bits = torch.tensor(0.5), torch.tensor(0.0), torch.tensor(6.0)
        >>> trunc = TruncIntQuant(FloorSte(), BitWidthConst(4))
        >>> trunc(torch.tensor([3.5, -3.5]), scale, zero_point, bits, True)
        (tensor([ 2., -4.]), tensor(2.), tensor(0.), tensor(4.))

    Reference: https://github.com/fastmachinelearning/qonnx/blob/main/docs/qonnx-custom-ops/,
    trunc_v1.md and trunc_v2.md.
    """

    def __init__(
        self,
        float_to_int_impl: nn.Module,
        bit_width_impl: nn.Module,
        trunc_scaling_impl: nn.Module | None = None,
        narrow_range: bool = False,
        tensor_clamp_impl: nn.Module | None = None,
        quant_delay_steps: int | None = 0,
        keeps_scale: bool = False,
    ) -> None:
        super().__init__()
        trunc_scaling_impl = trunc_scaling_impl or TruncMsbScaling()
        tensor_clamp_impl = tensor_clamp_impl or TensorClamp()
        check_parts(
            float_to_int_impl=float_to_int_impl,
            bit_width_impl=bit_width_impl,
            trunc_scaling_impl=trunc_scaling_impl,
            tensor_clamp_impl=tensor_clamp_impl,
        )
        # The attribute's name is a checkpoint key and older than the part's.
        self.msb_clamp_bit_width_impl = bit_width_impl
        self.trunc_scaling_impl = trunc_scaling_impl
        self.float_to_int_impl = float_to_int_impl
        self.tensor_clamp_impl = tensor_clamp_impl
        self.delay_wrapper = DelayWrapper(quant_delay_steps)
        self.narrow_range = narrow_range
        self.keeps_scale = keeps_scale

    def min_int(self, bit_width: Tensor, signed: bool | Tensor) -> Tensor:
        """Smallest integer at ``bit_width`` bits (a 0-d float tensor)."""
        return min_int(signed, self.narrow_range, bit_width)

    def max_int(self, bit_width: Tensor, signed: bool | Tensor) -> Tensor:
        """Largest integer at ``bit_width`` bits (a 0-d float tensor)."""
        return max_int(signed, self.narrow_range, bit_width)

    def forward(
        self,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        input_bit_width: Tensor,
        signed: bool | Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return ``(value, scale, zero_point, bit_width)`` of the truncated ``x``.

        Args:
            x: real values of the accumulator, any shape.
            scale: real value of one step of the accumulator, broadcastable to ``x``.
            zero_point: integer that stands for zero, broadcastable to ``x``.
            input_bit_width: bits of the accumulator, 0-d.
            signed: whether the integers have a sign.
        """
        bit_width = self.msb_clamp_bit_width_impl()
        # A sum in floating point is off its integer by a few roundings, and many sums lie halfway
        # between two results: the integers have to be exact before bits are dropped.
        integer = round_ste(widened(x) / scale + zero_point)
        steps = self.trunc_scaling_impl(integer, input_bit_width, bit_width, signed)
        kept = self.tensor_clamp_impl(
            self.float_to_int_impl(integer / steps),
            self.min_int(bit_width, signed),
            self.max_int(bit_width, signed),
        )
        if not self.keeps_scale:
            scale, zero_point = scale * steps, zero_point / steps
        value = ((kept - zero_point) * scale).to(x.dtype)
        return self.delay_wrapper(x, value), scale, zero_point, bit_width
