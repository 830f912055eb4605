"""How many bits an integer accumulator needs so that no sum of products overflows it.

Layer: quant_tensor (L2).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from math import ceil, gcd, log2, prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from brevitas.function.ops import max_int
from brevitas.function.ops_ste import ceil_ste
from brevitas.quant_tensor._compare import is_readable


def spread(argument: int | Sequence[int], dims: int) -> tuple[int, ...]:
    """A size per dimension, from one size or as many as there are dimensions."""
    sizes = (argument,) if isinstance(argument, int) else tuple(argument)
    return sizes * dims if len(sizes) == 1 else sizes


def argument(
    args: Sequence[Any], kwargs: dict[str, Any], position: int, name: str, default: Any
) -> Any:
    """An argument given by position or by name."""
    return args[position] if len(args) > position else kwargs.get(name, default)


def _is_number(bit_width: Tensor) -> bool:
    """Whether the host can read a bit width: one number, on the host, not traced, not batched."""
    is_transformed = torch._C._are_functorch_transforms_active()
    return is_readable(bit_width) and bit_width.numel() == 1 and not is_transformed


def is_constant(bit_width: Tensor) -> bool:
    """Whether the host can compute with a bit width: a number that is not learned."""
    return not bit_width.requires_grad and _is_number(bit_width)


def sum_bit_width(bit_widths: Sequence[Tensor], terms: int) -> Tensor:
    """Bits of a sum of products of unsigned integers, `ceil(log2(terms * prod(2**b - 1) + 1))`.

    A signed sum fits, too: of two signed factors always, of a signed and an unsigned one if the
    signed one does not use its lowest integer (narrow range), else see `with_lowest_integer`. With
    a signed factor of a single bit it needs one bit more, see `with_sign_bit`.

    Args:
        bit_widths: Bits of each factor, 0-d.
        terms: Number of products in the sum.

    Returns:
        Bits, 0-d, differentiable in the bit widths.

    Example:
        >>> sum_bit_width((torch.tensor(2.), torch.tensor(2.)), 5)
        tensor(6.)
    """
    if all(is_constant(bit_width) for bit_width in bit_widths):
        # The same formula on the host, exact, without a chain of 0-d tensors.
        most = prod(2 ** bit_width.item() - 1 for bit_width in bit_widths)
        bits = float(ceil(log2(terms * most + 1)))
        return torch.tensor(bits, dtype=bit_widths[0].dtype, device=bit_widths[0].device)
    largest = max_int(False, False, bit_widths[0])
    for bit_width in bit_widths[1:]:
        largest = largest * max_int(False, False, bit_width)
    # In float64 the logarithm of a sum just above a power of two is not rounded down to it.
    wide = largest.double() if largest.device.type != "mps" else largest
    bits = torch.log2(wide * terms + 1)
    bits = ceil_ste(bits) if bits.requires_grad else torch.ceil(bits)
    return bits.to(largest.dtype)


def with_sign_bit(bit_width: Tensor, *factors: tuple[Tensor, bool]) -> Tensor:
    """Bits of a sum of products whose factors may be signed integers of a single bit.

    A signed integer of b >= 2 bits reaches half of the `2**b - 1` that the bits of a sum are
    counted with, which leaves room for the sign. One bit reaches all of it: -1 and 1 in a binary
    quantizer, -1 and 0 in two's complement. The sign then takes one bit more.

    Args:
        bit_width: Bits of the sum without regard to signs, 0-d.
        *factors: Bits of each factor, 0-d, and whether it is signed.

    Returns:
        Bits, 0-d.

    Example:
        >>> binary, eight = torch.tensor(1.), torch.tensor(8.)
        >>> with_sign_bit(eight, (eight, False), (binary, True))
        tensor(9.)
    """
    bit_widths = [bits for bits, signed in factors if signed]
    if all(map(_is_number, bit_widths)):
        return bit_width + 1 if any(bits.item() < 2 for bits in bit_widths) else bit_width
    return bit_width + (functools.reduce(torch.minimum, bit_widths) < 2)


def with_lowest_integer(
    bit_width: Tensor, signed_bits: Tensor, unsigned_bits: Tensor, terms: int
) -> Tensor:
    """Bits of a sum of products of signed integers in full range and unsigned ones.

    The sum reaches `-terms * 2**(b_s - 1) * (2**b_u - 1)`, which is up to `2**b_s / (2**b_s - 1)`
    times what the bits of a sum are counted with: now and then one bit more.

    Args:
        bit_width: Bits of the sum without regard to the lowest integer, 0-d.
        signed_bits: b_s, bits of the signed factor, 0-d.
        unsigned_bits: b_u, bits of the unsigned factor, 0-d.
        terms: Number of products in the sum.

    Returns:
        Bits, 0-d, differentiable.

    Example:
        >>> three, one = torch.tensor(3.), torch.tensor(1.)
        >>> with_lowest_integer(torch.tensor(5.), three, one, 4), 4 * -4
        (tensor(5.), -16)
        >>> with_lowest_integer(torch.tensor(6.), three, one, 9), 9 * -4
        (tensor(7.), -36)
    """
    if is_constant(signed_bits) and is_constant(unsigned_bits):
        most = terms * 2 ** (signed_bits.item() - 1) * (2 ** unsigned_bits.item() - 1)
        needed = ceil(log2(max(most, 1))) + 1  # without terms the sum is 0
        return torch.maximum(bit_width, torch.full_like(bit_width, needed))
    largest = 2 ** (signed_bits - 1) * max_int(False, False, unsigned_bits)
    wide = largest.double() if largest.device.type != "mps" else largest
    bits = torch.log2(wide * terms)
    bits = ceil_ste(bits) if bits.requires_grad else torch.ceil(bits)
    return torch.maximum(bit_width, bits.to(bit_width.dtype) + 1)


def terms_of_linear(weight_shape: Sequence[int], *args: Any, **kwargs: Any) -> int:
    """Products that an output of a linear layer sums: `in_features`."""
    return weight_shape[1]


def terms_of_convolution(weight_shape: Sequence[int], *args: Any, **kwargs: Any) -> int:
    """Products that an output of a convolution sums."""
    return prod(weight_shape[1:])


def terms_of_transposed_convolution(weight_shape: Sequence[int], *args: Any, **kwargs: Any) -> int:
    """Products that an output of a transposed convolution sums, at most.

    Per dimension, `ceil(kernel / (stride / gcd(stride, dilation)))` taps meet in one output.
    """
    kernel = tuple(weight_shape[2:])
    strides = spread(argument(args, kwargs, 0, "stride", 1), len(kernel))
    dilations = spread(argument(args, kwargs, 4, "dilation", 1), len(kernel))
    taps = 1
    for size, stride, dilation in zip(kernel, strides, dilations, strict=True):
        period = stride // gcd(stride, dilation)
        taps *= -(-size // period)
    return taps * weight_shape[0] // argument(args, kwargs, 3, "groups", 1)


#: Function -> products that one output sums, from the shape of the weight and further arguments.
TERMS: dict[Any, Callable[..., int]] = {
    F.linear: terms_of_linear,
    torch.conv1d: terms_of_convolution,
    torch.conv2d: terms_of_convolution,
    torch.conv3d: terms_of_convolution,
    torch.conv_transpose1d: terms_of_transposed_convolution,
    torch.conv_transpose2d: terms_of_transposed_convolution,
    torch.conv_transpose3d: terms_of_transposed_convolution,
}


def max_acc_bit_width_linear(
    input_bit_width: Tensor,
    weight_bit_width: Tensor,
    weight_shape: Sequence[int],
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """Bits of the accumulator of a linear layer.

    `ceil(log2((2**b_x - 1) * (2**b_w - 1) * in_features + 1))`.

    Args:
        input_bit_width: b_x, bits of the input, 0-d.
        weight_bit_width: b_w, bits of the weight, 0-d.
        weight_shape: `[out_features, in_features]`.
        *args: Ignored.
        **kwargs: Ignored.

    Returns:
        Bits, 0-d, differentiable.

    Example:
        >>> max_acc_bit_width_linear(torch.tensor(8.), torch.tensor(8.), (4, 2))
        tensor(17.)
    """
    return sum_bit_width((input_bit_width, weight_bit_width), terms_of_linear(weight_shape))


def max_acc_bit_width_convNd(
    input_bit_width: Tensor,
    weight_bit_width: Tensor,
    weight_shape: Sequence[int],
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """Bits of the accumulator of a convolution; see `max_acc_bit_width_linear`.

    Args:
        input_bit_width: Bits of the input, 0-d.
        weight_bit_width: Bits of the weight, 0-d.
        weight_shape: `[out_channels, in_channels / groups, *kernel_size]`.
        *args: Ignored.
        **kwargs: Ignored.

    Returns:
        Bits, 0-d, differentiable.

    Example:
        >>> max_acc_bit_width_convNd(torch.tensor(8.), torch.tensor(8.), (3, 2, 3, 3))
        tensor(21.)
    """
    return sum_bit_width((input_bit_width, weight_bit_width), terms_of_convolution(weight_shape))


def max_acc_bit_width_convtransposeNd(
    input_bit_width: Tensor,
    weight_bit_width: Tensor,
    weight_shape: Sequence[int],
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """Bits of the accumulator of a transposed convolution; see `max_acc_bit_width_linear`.

    Args:
        input_bit_width: Bits of the input, 0-d.
        weight_bit_width: Bits of the weight, 0-d.
        weight_shape: `[in_channels, out_channels / groups, *kernel_size]`.
        *args: stride, padding, output_padding, groups, dilation.
        **kwargs: The same by name.

    Returns:
        Bits, 0-d, differentiable.

    Example:
        >>> bits = torch.tensor(8.)
        >>> max_acc_bit_width_convtransposeNd(bits, bits, (4, 6, 3, 3), stride=2)
        tensor(20.)
    """
    terms = terms_of_transposed_convolution(weight_shape, *args, **kwargs)
    return sum_bit_width((input_bit_width, weight_bit_width), terms)


def max_acc_bit_width_avg_pool2d(
    input_bit_width: Tensor, avg_scaling: int, signed: bool = False
) -> Tensor:
    """Bits of the sum over one window of an average pool.

    `ceil(log2((2**b - 1) * n + 1))`, or `b + ceil(log2(n))` if signed: the two differ where the
    window has more than `2**b` elements, all of which may be the most negative integer.

    Args:
        input_bit_width: b, bits of the input, 0-d.
        avg_scaling: n, elements of the window.
        signed: Whether the integers have a sign.

    Returns:
        Bits, 0-d, differentiable.

    Example:
        >>> max_acc_bit_width_avg_pool2d(torch.tensor(8.), 4)
        tensor(10.)
    """
    if signed:
        return input_bit_width + (avg_scaling - 1).bit_length()
    return sum_bit_width((input_bit_width,), avg_scaling)


FN_ACC_BITWIDTH_MAPPING: dict[Any, Callable[..., Tensor]] = {
    F.linear: max_acc_bit_width_linear,
    torch.conv1d: max_acc_bit_width_convNd,
    torch.conv2d: max_acc_bit_width_convNd,
    torch.conv3d: max_acc_bit_width_convNd,
    torch.conv_transpose1d: max_acc_bit_width_convtransposeNd,
    torch.conv_transpose2d: max_acc_bit_width_convtransposeNd,
    torch.conv_transpose3d: max_acc_bit_width_convtransposeNd,
    F.avg_pool2d: max_acc_bit_width_avg_pool2d,
}
