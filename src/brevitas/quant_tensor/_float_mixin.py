"""What minifloat tensors know about their minifloats: values, range, validity.

Layer: quant_tensor (L2).
"""

from __future__ import annotations

import builtins
from typing import Any

import torch
from torch import Tensor

from brevitas.quant_tensor._compare import assert_on_device, flag_tensor, is_traced, require_equal
from brevitas.quant_tensor._int_mixin import (
    SHARE_QUANTIZER,
    SINGLE_PRECISION_DEVICES,
    TOLERANCE,
    check_sign_same,
    check_while_not_training,
)
from brevitas.utils.float_quant_utils import largest_significand

_NOT_VALID = "FloatQuantTensor not valid."
# Largest distance from a minifloat, in steps between neighbours. In half precision a larger one
# counts only where the value itself is no more precise than that.
_TOLERANCE = 0.2


class FloatMixin:
    """Minifloats of a record with `value`, `scale`, `zero_point` and a floating-point format."""

    __slots__ = ()

    value: Tensor
    scale: Tensor
    zero_point: Tensor
    exponent_bit_width: Tensor
    mantissa_bit_width: Tensor
    exponent_bias: Tensor
    saturating: bool
    inf_values: tuple[str, ...] | None
    nan_values: tuple[str, ...] | None
    signed: bool
    training: bool

    @property
    def saturating_t(self) -> Tensor:
        """`saturating` as a 0-d tensor on the host."""
        return flag_tensor(self.saturating)

    @property
    def eps(self) -> builtins.float:
        """Smallest normal number of the dtype of `scale`."""
        return torch.finfo(self.scale.dtype).tiny

    def _ratio(self) -> Tensor:
        """`value / scale + zero_point`, in float64 where the device has it."""
        value = self.value.detach()
        if value.device.type not in SINGLE_PRECISION_DEVICES:
            value = value.double()
        return value / self.scale.detach() + self.zero_point.detach()

    def _end(self) -> tuple[Tensor, Any]:
        """Exponent and significand of the largest number of the format."""
        bits = self.mantissa_bit_width.detach()
        below, significand = largest_significand(bits, self.nan_values, self.inf_values)
        return torch.exp2(self.exponent_bit_width.detach()) - 1 - int(below), significand

    def _largest(self) -> Tensor:
        """The largest number of the format."""
        exponent, significand = self._end()
        subnormal = exponent < 1
        exponent = exponent.clamp(min=1) - self.exponent_bias.detach()
        return (significand - subnormal.to(exponent.dtype)) * torch.exp2(exponent)

    def _step(self, ratio: Tensor) -> Tensor:
        """Distance between the neighbours of each number, by its exponent.

        At a power of two, the steps of both sides will do, as the logarithm may be rounded.
        """
        bias = self.exponent_bias.detach()
        exponent = torch.floor(torch.log2(ratio.abs()))
        # Numbers below the smallest normal one have its step; infinity has no exponent.
        exponent = torch.minimum(exponent, self._end()[0] - bias)
        exponent = torch.maximum(exponent, 1 - bias)
        return torch.exp2(exponent - self.mantissa_bit_width.detach())

    @property
    def _pre_round_float_value(self) -> Tensor:
        """The numbers in units of the step between their neighbours, in the working precision."""
        ratio = self.value / self.scale + self.zero_point
        return ratio / self._step(ratio.detach()).to(ratio.dtype)

    def _minifloats(self) -> tuple[Tensor, Tensor, Tensor]:
        """The nearest multiples of the steps, the steps, and one bool: whether all are valid."""
        ratio = self._ratio()
        step = self._step(ratio)
        steps = ratio / step
        rounded = torch.round(steps)
        rounding = 2 * torch.finfo(self.value.dtype).eps * steps.abs()
        least = min(TOLERANCE.get(self.value.dtype, _TOLERANCE), _TOLERANCE)
        is_number = (steps - rounded).abs() <= torch.clamp(rounding, min=least, max=0.5)
        number = rounded * step
        is_number = is_number & (number.abs() <= self._largest())
        if self.inf_values:
            is_number = is_number | torch.isinf(ratio)
        if not self.signed:
            is_number = is_number & (number >= 0)
        if self.nan_values:
            is_number = is_number | torch.isnan(ratio)
        return rounded, step, is_number.all()

    @property
    def is_valid(self) -> bool | Tensor:
        """Whether `value / scale + zero_point` are numbers of the format.

        Infinity and NaN are where the format has codes for them. A 0-d bool tensor in a traced
        graph.
        """
        valid = self._minifloats()[2]
        return valid if is_traced() else bool(valid)

    def _checked(self) -> tuple[Tensor, Tensor]:
        rounded, step, valid = self._minifloats()
        if is_traced():
            assert_on_device(valid, _NOT_VALID)
        elif not valid:
            raise RuntimeError(self._invalid_message())
        return rounded, step

    def _result_dtype(self) -> torch.dtype:
        return torch.promote_types(self.value.dtype, torch.float32)

    def minifloat(self, float_datatype: bool = True) -> Tensor:
        """The minifloats, `value / scale + zero_point` on the grid of the format.

        Args:
            float_datatype: Must be True: there is no smaller dtype that holds any format.

        Returns:
            Tensor of the shape of `value`, at least float32.

        Raises:
            ValueError: `float_datatype` is False.
            RuntimeError: They are no numbers of the format; in a traced graph an assertion.
        """
        if not float_datatype:
            raise ValueError(
                "float_datatype=False: minifloats are given in float32 or float64 only. "
                "Use `.to(dtype)` on the result."
            )
        rounded, step = self._checked()
        return (rounded * step).to(self._result_dtype())

    def int(self) -> Tensor:
        """The minifloats in units of the step between neighbours: signed significands.

        Returns:
            Whole numbers of the shape of `value`, at least float32.

        Raises:
            RuntimeError: They are no numbers of the format; in a traced graph an assertion.
        """
        return self._checked()[0].to(self._result_dtype())

    def _invalid_message(self) -> str:
        """The headline on a line of its own, as code that prints the error expects it."""
        remedy = "Requantize the value, or use `value / scale` for the unchecked numbers."
        return f"{_NOT_VALID}\n{self._why_invalid()}. {remedy}"

    def _why_invalid(self) -> str:
        exponent_bits, mantissa_bits = self.exponent_bit_width, self.mantissa_bit_width
        lowest = -self._largest() if self.signed else torch.zeros(())
        codes = f"inf_values={self.inf_values}, nan_values={self.nan_values}"
        return (
            f"Values {self.value.detach().flatten()[:4].tolist()} with scale "
            f"{self.scale.detach().flatten()[:4].tolist()} are no numbers of the format with "
            f"{exponent_bits.max():g} exponent and {mantissa_bits.max():g} mantissa bits, exponent "
            f"bias {self.exponent_bias.max():g}, {codes}: accepted are its numbers from "
            f"{lowest.min():g} to {self._largest().max():g}"
        )

    def check_scaling_factors_same(self, other: Any) -> bool | None:
        """Raise a RuntimeError if scales differ outside training; True in training."""
        return check_while_not_training(self, other, "scale", "Scaling factors are different")

    def check_zero_points_same(self, other: Any) -> bool | None:
        """Raise a RuntimeError if zero points differ outside training; True in training."""
        return check_while_not_training(self, other, "zero_point", "Zero points are different")

    def _check_same(self, other: Any, name: str, headline: str) -> None:
        in_step = self.training or other.training
        first, second = getattr(self, name), getattr(other, name)
        require_equal(first, second, headline, SHARE_QUANTIZER, in_step)

    def check_bit_width_same(self, other: Any) -> None:
        """Raise a RuntimeError if bits of exponent or mantissa differ."""
        for name in ("exponent_bit_width", "mantissa_bit_width"):
            self._check_same(other, name, "Bit widths are different")

    def check_exponent_bias(self, other: Any) -> None:
        """Raise a RuntimeError if exponent biases differ."""
        self._check_same(other, "exponent_bias", "Exponent biases are different")

    def check_inf_nan_same(self, other: Any) -> None:
        """Raise a RuntimeError if codes for infinity or NaN differ, or one saturates alone."""
        for name in ("inf_values", "nan_values", "saturating"):
            first, second = getattr(self, name), getattr(other, name)
            if first != second:
                raise RuntimeError(
                    f"Floating point representations are different: {name}={first} and "
                    f"{name}={second}. {SHARE_QUANTIZER}"
                )

    def _check_format_same(self, other: Any) -> None:
        self.check_bit_width_same(other)
        self.check_exponent_bias(other)
        self.check_inf_nan_same(other)

    def check_sign_same(self, other: Any) -> None:
        """Raise a RuntimeError if one is signed and the other is not."""
        check_sign_same(self, other)
