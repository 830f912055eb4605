"""Pure elementwise maths of quantization: rounding rules, integer ranges, minifloat limits.

Layer: function (L1).

No function here changes its gradient: straight-through versions live in `ops_ste`.
"""

from __future__ import annotations

from math import inf
from typing import overload

import torch
from torch import Tensor

from brevitas.utils.torch_utils import widened


def identity(x: Tensor) -> Tensor:
    """Return the argument unchanged.

    Args:
        x: Any tensor.

    Returns:
        `x` itself.

    Example:
        >>> x = torch.tensor([1.5])
        >>> identity(x) is x
        True
    """
    return x


def binary_sign(x: Tensor) -> Tensor:
    """Sign with two values: zero counts as positive.

    `y = 1 if x >= 0 else -1`. NaN stays NaN.

    Args:
        x: Any floating-point or signed integer tensor.

    Returns:
        Tensor of the shape and dtype of `x`, holding 1 and -1.

    Example:
        >>> binary_sign(torch.tensor([-2., 0., 3.]))
        tensor([-1.,  1.,  1.])
    """
    # -1 below zero and 0 from there on; unlike a comparison, it lets NaN pass.
    return torch.clamp(x, -1, 0).floor_().mul_(2).add_(1)


def round_to_zero(x: Tensor) -> Tensor:
    """Round towards zero, `sign(x) * floor(abs(x))`.

    Args:
        x: Any floating-point tensor.

    Returns:
        Integer values in the dtype of `x`.

    Example:
        >>> round_to_zero(torch.tensor([-1.7, 1.7]))
        tensor([-1.,  1.])
    """
    return torch.trunc(x)


def dpu_round(x: Tensor) -> Tensor:
    """Round as the DPU accelerator does: halves go to even above zero, upwards below zero.

    `y = ceil(x)` where `x < 0` and its fraction is exactly one half, else `round(x)`.

    Args:
        x: Any floating-point tensor.

    Returns:
        Integer values in the dtype of `x`.

    Example:
        >>> dpu_round(torch.tensor([-3.5, -2.5, 0.5, 1.5]))
        tensor([-3., -2.,  0.,  2.])
    """
    ceiling = torch.ceil(x)
    is_negative_half = (x < 0) & (ceiling - x == 0.5)
    return torch.where(is_negative_half, ceiling, torch.round(x))


def tensor_clamp(x: Tensor, min_val: Tensor, max_val: Tensor) -> Tensor:
    """Clamp to bounds given as tensors; the upper bound wins where the bounds cross.

    `y = min(max(x, min_val), max_val)`; NaN stays NaN.

    Args:
        x: Tensor to clamp.
        min_val: Lower bound, broadcastable to x.
        max_val: Upper bound, broadcastable to x.

    Returns:
        New tensor of the shape of `x`.

    Example:
        >>> tensor_clamp(torch.tensor([-3., 0.5]), torch.tensor(-1.), torch.tensor(1.))
        tensor([-1.0000,  0.5000])
    """
    return torch.clamp(x, min_val, max_val)


def tensor_clamp_(x: Tensor, min_val: Tensor, max_val: Tensor) -> Tensor:
    """Clamp `x` in place to bounds given as tensors; see `tensor_clamp`.

    Args:
        x: Tensor to overwrite.
        min_val: Lower bound, broadcastable to x.
        max_val: Upper bound, broadcastable to x.

    Returns:
        `x` itself.

    Example:
        >>> x = torch.tensor([-3., 0.5])
        >>> tensor_clamp_(x, torch.tensor(-1.), torch.tensor(1.)) is x
        True
    """
    return torch.clamp_(x, min_val, max_val)


@overload
def _power_of_two(exponent: Tensor) -> Tensor: ...
@overload
def _power_of_two(exponent: float) -> float: ...
def _power_of_two(exponent: Tensor | float) -> Tensor | float:
    """`2 ** exponent`, exact for integers; float32 or wider for tensors."""
    if not isinstance(exponent, Tensor):
        # Python raises beyond the largest power of float64, where tensors are infinite.
        return 2.0**exponent if exponent < 1024 else inf
    return torch.pow(2, widened(exponent))


def _as_integer(flag: bool | Tensor) -> Tensor | int:
    """A flag as 0 or 1; one held in a tensor is not read by the host."""
    return flag.to(torch.uint8) if isinstance(flag, Tensor) else int(flag)


@overload
def max_int(signed: bool | Tensor, narrow_range: bool | Tensor, bit_width: Tensor) -> Tensor: ...
@overload
def max_int(signed: bool | Tensor, narrow_range: bool | Tensor, bit_width: float) -> float: ...
def max_int(
    signed: bool | Tensor, narrow_range: bool | Tensor, bit_width: Tensor | float
) -> Tensor | float:
    """Largest integer of a two's complement or unsigned format.

    `2**(b-1) - 1` if signed, `2**b - 1` if not, `2**b - 2` if unsigned and narrow.
    Differentiable in `bit_width`. A half-precision `bit_width` gives a float32 result, in which
    the integers up to 24 bits are exact; elsewhere the dtype is kept.

    Args:
        signed: Whether the format has negative numbers.
        narrow_range: Whether one code is given up, so that a signed range is symmetric.
        bit_width: Bits, tensor of any shape or Python number.

    Returns:
        Tensor of the shape of `bit_width`; a float if `bit_width` is a Python number and no flag
        is a tensor.

    Example:
        >>> max_int(True, False, torch.tensor(8.))
        tensor(127.)
        >>> max_int(False, True, torch.tensor(4.))
        tensor(14.)
    """
    if isinstance(signed, Tensor):
        return torch.where(
            signed, max_int(True, narrow_range, bit_width), max_int(False, narrow_range, bit_width)
        )
    if signed:
        return _power_of_two(bit_width - 1) - 1
    return _power_of_two(bit_width) - _as_integer(narrow_range) - 1


@overload
def min_int(signed: bool | Tensor, narrow_range: bool | Tensor, bit_width: Tensor) -> Tensor: ...
@overload
def min_int(signed: bool | Tensor, narrow_range: bool | Tensor, bit_width: float) -> float: ...
def min_int(
    signed: bool | Tensor, narrow_range: bool | Tensor, bit_width: Tensor | float
) -> Tensor | float:
    """Smallest integer of a two's complement or unsigned format.

    `-2**(b-1)` if signed, `-2**(b-1) + 1` if signed and narrow, 0 if unsigned.
    Dtypes follow the rule of `max_int`.

    Args:
        signed: Whether the format has negative numbers.
        narrow_range: Whether one code is given up, so that a signed range is symmetric.
        bit_width: Bits, tensor of any shape or Python number.

    Returns:
        Tensor of the shape of `bit_width`; a float if `bit_width` is a Python number and no flag
        is a tensor.

    Example:
        >>> min_int(True, False, torch.tensor(8.))
        tensor(-128.)
        >>> min_int(False, False, torch.tensor(8.))
        tensor(0.)
    """
    if isinstance(signed, Tensor):
        return torch.where(
            signed, min_int(True, narrow_range, bit_width), min_int(False, narrow_range, bit_width)
        )
    if signed:
        return _as_integer(narrow_range) - _power_of_two(bit_width - 1)
    if not isinstance(bit_width, Tensor):
        return 0.0
    # The zero stays connected to a learned bit width, with gradient zero.
    return widened(bit_width) * 0


def get_upper_bound_on_l1_norm(
    accumulator_bit_width: Tensor, input_bit_width: Tensor, input_is_signed: bool
) -> Tensor:
    """Largest L1 norm of integer weights with which a signed accumulator cannot overflow.

    `(2**(P-1) - 1) * 2**(s - N)` for a P-bit accumulator and N-bit inputs, where s is 1 for
    signed inputs and 0 for unsigned ones.

    Args:
        accumulator_bit_width: P, bits of the accumulator.
        input_bit_width: N, bits of the inputs.
        input_is_signed: Whether the inputs are signed.

    Returns:
        Bound on the sum of the absolute integer weights of one output channel.

    Example:
        >>> get_upper_bound_on_l1_norm(torch.tensor(16.), torch.tensor(8.), True)
        tensor(255.9922)

    Reference:
        Colbert, Pappalardo, Petri-Koenig: "A2Q: Accumulator-Aware Quantization with Guaranteed
        Overflow Avoidance", ICCV 2023, equation 10.
    """
    exponent = _as_integer(input_is_signed) - input_bit_width
    return (_power_of_two(accumulator_bit_width - 1) - 1) * _power_of_two(exponent)


@overload
def compute_max_mantissa(mantissa_bit_width: Tensor) -> Tensor: ...
@overload
def compute_max_mantissa(mantissa_bit_width: float) -> float: ...
def compute_max_mantissa(mantissa_bit_width: Tensor | float) -> Tensor | float:
    """Largest significand with an implicit leading one, `2 - 2**(-m)`.

    Args:
        mantissa_bit_width: m, stored bits of the mantissa.

    Returns:
        Significand in [1, 2).

    Example:
        >>> compute_max_mantissa(torch.tensor(3.))
        tensor(1.8750)
    """
    return 2 - _power_of_two(-mantissa_bit_width)


@overload
def max_float(
    exponent_bit_width: Tensor, max_mantissa: Tensor, exponent_bias: Tensor
) -> Tensor: ...
@overload
def max_float(exponent_bit_width: float, max_mantissa: float, exponent_bias: float) -> float: ...
def max_float(
    exponent_bit_width: Tensor | float,
    max_mantissa: Tensor | float,
    exponent_bias: Tensor | float,
) -> Tensor | float:
    """Largest finite value of a minifloat whose highest exponent code is in use.

    `max_mantissa * 2**(2**e - 1 - bias)`.

    Args:
        exponent_bit_width: e, bits of the exponent.
        max_mantissa: Largest significand with the highest exponent, in [1, 2).
        exponent_bias: Offset subtracted from the exponent code.

    Returns:
        Real value.

    Example:
        >>> max_float(torch.tensor(4.), torch.tensor(1.75), torch.tensor(7.))
        tensor(448.)
        >>> max_float(4, 1.75, 7), max_float(11, 1.75, 0)
        (448.0, inf)

    Reference:
        OCP Microscaling Formats specification 1.0, section 5.3.
    """
    max_exponent = _power_of_two(exponent_bit_width) - 1 - exponent_bias
    return max_mantissa * _power_of_two(max_exponent)


def calculate_midmax_bias(mantissa_bit_width: Tensor, midmax_mantissa_bit_bias: float) -> Tensor:
    """Where, in octaves, the midpoint between the largest value and the next power of two lies.

    `log2(2 - 2**(midmax_mantissa_bit_bias - 1 - m))`: with a bias of 0 the largest significand
    of a format with one more mantissa bit.

    Args:
        mantissa_bit_width: m, stored bits of the mantissa.
        midmax_mantissa_bit_bias: Bits by which the mantissa counts as shorter.

    Returns:
        Offset in octaves, below 1.

    Example:
        >>> calculate_midmax_bias(torch.tensor(1.), 0.)
        tensor(0.8074)
    """
    return torch.log2(compute_max_mantissa(mantissa_bit_width + (1 - midmax_mantissa_bit_bias)))
