"""Integer quantization of one tensor, given scale, zero point and bit width. Layer: core (L3)."""

from __future__ import annotations

from torch import Tensor, nn

from brevitas.core.function_wrapper.clamp import TensorClamp
from brevitas.core.function_wrapper.misc import Identity
from brevitas.core.function_wrapper.ops_ste import RoundSte
from brevitas.core.quant._plan import fake_quant_plan, viewed
from brevitas.core.quant.delay import DelayWrapper
from brevitas.function.ops import max_int, min_int
from brevitas.ops.fake_quant import fake_quant
from brevitas.utils.torch_utils import widened

__all__ = ["DecoupledIntQuant", "IntQuant"]


class _IntParts(nn.Module):
    """Base: how integers are rounded and clamped, whatever grid they are found on.

    Args:
        narrow_range: leave out the most negative integer (signed) or the largest one (unsigned).
        signed: integers in ``[-2**(b-1), 2**(b-1) - 1]`` if True, ``[0, 2**b - 1]`` otherwise.
        input_view_impl: reshapes ``x`` before it is quantized (groups); the identity by default.
        float_to_int_impl: rounding with a straight-through gradient.
        tensor_clamp_impl: clamp to the integer limits.
        quant_delay_steps: number of training steps that pass ``x`` through unchanged.
    """

    def __init__(
        self,
        narrow_range: bool,
        signed: bool,
        input_view_impl: nn.Module | None = None,
        float_to_int_impl: nn.Module | None = None,
        tensor_clamp_impl: nn.Module | None = None,
        quant_delay_steps: int | None = 0,
    ) -> None:
        super().__init__()
        self.float_to_int_impl = float_to_int_impl or RoundSte()
        self.tensor_clamp_impl = tensor_clamp_impl or TensorClamp()
        self.delay_wrapper = DelayWrapper(quant_delay_steps)
        self.input_view_impl = input_view_impl or Identity()
        self.signed = signed
        self.narrow_range = narrow_range

    def min_int(self, bit_width: Tensor) -> Tensor:
        """Smallest integer at ``bit_width`` bits (a 0-d float tensor)."""
        return min_int(self.signed, self.narrow_range, bit_width)

    def max_int(self, bit_width: Tensor) -> Tensor:
        """Largest integer at ``bit_width`` bits (a 0-d float tensor)."""
        return max_int(self.signed, self.narrow_range, bit_width)

    def to_int(self, scale: Tensor, zero_point: Tensor, bit_width: Tensor, x: Tensor) -> Tensor:
        """Return the clamped integers of ``x`` in a float tensor, through the parts."""
        integer = self.float_to_int_impl(x / scale + zero_point)
        return self.tensor_clamp_impl(integer, self.min_int(bit_width), self.max_int(bit_width))

    def _by_parts(
        self,
        x: Tensor,
        bit_width: Tensor,
        grid: tuple[Tensor, Tensor],
        output: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Find the integers on one grid (scale, zero point) and place them on the output's."""
        scale, zero_point = output
        x = self.input_view_impl(x if x.is_floating_point() else x.to(scale.dtype))
        integer = self.to_int(*grid, bit_width, widened(x))
        dequantized = ((integer - zero_point) * scale).to(x.dtype)
        return self.delay_wrapper(x, dequantized)


class IntQuant(_IntParts):
    """Quantize and dequantize: ``y = (clamp(round(x / scale + zero_point)) - zero_point) * scale``.

    Args:
        narrow_range: leave out the most negative integer (signed) or the largest one (unsigned).
        signed: integers in ``[-2**(b-1), 2**(b-1) - 1]`` if True, ``[0, 2**b - 1]`` otherwise.
        input_view_impl: reshapes ``x`` before it is quantized (groups); the identity by default.
        float_to_int_impl: rounding with a straight-through gradient.
        tensor_clamp_impl: clamp to the integer limits.
        quant_delay_steps: number of training steps that pass ``x`` through unchanged.

    Example:
        >>> int_quant = IntQuant(narrow_range=False, signed=True)
        >>> scale, zero_point, bit_width = torch.tensor(0.5), torch.tensor(0.0), torch.tensor(3.0)
        >>> int_quant(scale, zero_point, bit_width, torch.tensor([0.6, -9.0]))
        tensor([ 0.5000, -2.0000])

    Reference: Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", 2018.
    """

    def forward(self, scale: Tensor, zero_point: Tensor, bit_width: Tensor, x: Tensor) -> Tensor:
        """Return the dequantized value of ``x``, in the shape of its view (in groups).

        Scale and zero point broadcast to that shape.
        """
        plan = fake_quant_plan(self) if type(self) is IntQuant else None
        if plan is not None:
            lower, upper = self.min_int(bit_width), self.max_int(bit_width)
            return fake_quant(viewed(self, x), scale, zero_point, lower, upper, plan)
        grid = (scale, zero_point)
        return self._by_parts(x, bit_width, grid, output=grid)


class DecoupledIntQuant(_IntParts):
    """Find integers on one grid, and place them on another.

    ``y = (clamp(round(x / pre_scale + pre_zero_point)) - zero_point) * scale``

    Which integer a value becomes (the pre-scale) is then learned apart from what an integer
    stands for (the scale). Takes the arguments of ``IntQuant``.

    Args:
        narrow_range: leave out the most negative integer (signed) or the largest one (unsigned).
        signed: integers in ``[-2**(b-1), 2**(b-1) - 1]`` if True, ``[0, 2**b - 1]`` otherwise.
        input_view_impl: reshapes ``x`` before it is quantized (groups); the identity by default.
        float_to_int_impl: rounding with a straight-through gradient.
        tensor_clamp_impl: clamp to the integer limits.
        quant_delay_steps: number of training steps that pass ``x`` through unchanged.

    Example:
        >>> int_quant, zero = DecoupledIntQuant(narrow_range=False, signed=True), torch.tensor(0.0)
        >>> grid, output = (torch.tensor(0.5), zero), (torch.tensor(2.0), zero)
        >>> int_quant(*grid, *output, torch.tensor(3.0), torch.tensor([0.6, -9.0]))
        tensor([ 2., -8.])
    """

    def to_int(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, pre_scale: Tensor, pre_zero_point: Tensor, bit_width: Tensor, x: Tensor
    ) -> Tensor:
        """Return the clamped integers of ``x`` in a float tensor, through the parts."""
        return super().to_int(pre_scale, pre_zero_point, bit_width, x)

    def forward(
        self,
        pre_scale: Tensor,
        pre_zero_point: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        bit_width: Tensor,
        x: Tensor,
    ) -> Tensor:
        """Return the dequantized value of ``x``; scales and zero points broadcast to ``x``."""
        plan = fake_quant_plan(self) if type(self) is DecoupledIntQuant else None
        if plan is not None:
            lower, upper = self.min_int(bit_width), self.max_int(bit_width)
            limits = (lower, upper, plan)
            x = viewed(self, x)
            return fake_quant(x, pre_scale, pre_zero_point, *limits, scale, zero_point)
        return self._by_parts(x, bit_width, (pre_scale, pre_zero_point), (scale, zero_point))
