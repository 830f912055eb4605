"""How many steps of an accumulator make one step of the truncated result. Layer: core (L3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from brevitas.core.function_wrapper.clamp import TensorClamp
from brevitas.utils.torch_utils import widened

__all__ = ["TruncMsbScaling", "TruncScalingWrapper"]


def _steps_of_kept_bits(input_bit_width: Tensor, output_bit_width: Tensor) -> Tensor:
    # Half precision ends at 2**16, which is less than a wide accumulator gives up.
    return torch.pow(2.0, widened(input_bit_width) - widened(output_bit_width))


class TruncMsbScaling(nn.Module):
    """Keep the most significant bits: ``y = 2 ** (input_bit_width - output_bit_width)``.

    Example:
        >>> TruncMsbScaling()(torch.zeros(3), torch.tensor(10.0), torch.tensor(8.0), True)
        tensor(4.)

    Reference: the operator Trunc of QONNX,
    https://github.com/fastmachinelearning/qonnx/blob/main/docs/qonnx-custom-ops/trunc_v2.md
    """

    def forward(
        self,
        scaling_input: Tensor,
        input_bit_width: Tensor,
        output_bit_width: Tensor,
        signed: bool | Tensor,
    ) -> Tensor:
        """Return the number of steps, 0-d; integers and sign are not read."""
        return _steps_of_kept_bits(input_bit_width, output_bit_width)


class TruncScalingWrapper(nn.Module):
    """Choose by a scaling of its own which bits to keep, and saturate above them.

    ``y = clamp(scaling(x, int_scaling(output_bit_width)), 1, 2 ** (input_bit_width -
    output_bit_width))``: from all low bits kept to all high bits kept.

    Args:
        trunc_int_scaling_impl: ``(bit_width, signed) -> threshold``, the integer that the
            statistic maps to.
        scaling_impl: ``(integers, threshold) -> steps``, a scaling over the accumulator's
            integers; powers of two make the division a shift.
        tensor_clamp_impl: clamp to the two ends.

    Example:
        >>> from brevitas.core.scaling import ConstScaling, PowerOfTwoIntScaling
        >>> steps = TruncScalingWrapper(PowerOfTwoIntScaling(), ConstScaling(256.0))
        >>> steps(torch.zeros(3), torch.tensor(12.0), torch.tensor(8.0), True)
        tensor(2.)
    """

    def __init__(
        self,
        trunc_int_scaling_impl: nn.Module,
        scaling_impl: nn.Module,
        tensor_clamp_impl: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.trunc_int_scaling_impl = trunc_int_scaling_impl
        self.scaling_impl = scaling_impl
        self.tensor_clamp_impl = tensor_clamp_impl or TensorClamp()

    def forward(
        self,
        scaling_input: Tensor,
        input_bit_width: Tensor,
        output_bit_width: Tensor,
        signed: bool | Tensor,
    ) -> Tensor:
        """Return the number of steps, of the scaling's shape.

        Args:
            scaling_input: integers of the accumulator, in a float tensor.
            input_bit_width: bits of the accumulator, 0-d.
            output_bit_width: bits of the result, 0-d.
            signed: whether the integers have a sign.
        """
        threshold = self.trunc_int_scaling_impl(output_bit_width, signed)
        steps = self.scaling_impl(scaling_input, threshold)
        all_high = _steps_of_kept_bits(input_bit_width, output_bit_width)
        all_low = torch.ones_like(all_high)
        fewest, most = torch.minimum(all_low, all_high), torch.maximum(all_low, all_high)
        return self.tensor_clamp_impl(steps, fewest, most)
