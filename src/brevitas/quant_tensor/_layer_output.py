"""The quantization of what a linear or convolution layer puts out, from that of its operands.

Layer: quant_tensor (L2).

With `x = (q_x - z_x) * s_x` and `w = (q_w - z_w) * s_w` (`z_w` an integer), each output is
`s_x * s_w * (sum q_x * (q_w - z_w) - z_x * sum (q_w - z_w))`. The first sum is what an integer
accumulator holds; the second is the zero point of the output, another one at the borders of a
convolution that pads with zeros. A real bias is one more zero point, `-bias / (s_x * s_w)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from brevitas.quant_tensor._accumulator import (
    FN_ACC_BITWIDTH_MAPPING,
    TERMS,
    argument,
    with_lowest_integer,
    with_sign_bit,
)
from brevitas.quant_tensor._broadcast_fields import is_per_tensor
from brevitas.quant_tensor._compare import is_close, known_equal
from brevitas.quant_tensor._int_mixin import is_affine_int, known_no_zero_point
from brevitas.quant_tensor.base_quant_tensor import _unpack_quant_tensor

# Function -> number of spatial dimensions.
_CONVOLUTIONS: dict[Any, int] = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
TRANSPOSED: dict[Any, int] = {
    torch.conv_transpose1d: 1,
    torch.conv_transpose2d: 2,
    torch.conv_transpose3d: 3,
}
_SPATIAL_DIMS: dict[Any, int] = {F.linear: 0, **_CONVOLUTIONS, **TRANSPOSED}


class LayerOutput(NamedTuple):
    """Fields of the output of a layer other than its value."""

    scale: Tensor
    zero_point: Tensor
    bit_width: Tensor
    signed: bool
    training: bool
    # False where the zero point is zero by construction.
    has_zero_point: bool | None


def _per_channel(fn: Any, field: Tensor, rank: int) -> Tensor:
    """A field with one number, or one for each output channel, in the shape of the output."""
    shape = [1] * rank
    shape[rank - 1 - _SPATIAL_DIMS[fn]] = -1
    return field.reshape(shape)


def _per_input(field: Tensor, rank: int) -> Tensor:
    """A field of the input, with as many dimensions as the input."""
    if is_per_tensor(field):
        return field.reshape((1,) * rank)
    return field.reshape((1,) * (rank - field.dim()) + tuple(field.shape))


def quant_output_scale_impl(
    fn: Callable[..., Any], inp: Tensor, quant_input_scale: Tensor, quant_weight_scale: Tensor
) -> Tensor:
    """Scale of the output of a layer, `s_x * s_w`.

    Args:
        fn: `torch.nn.functional.linear` or a convolution.
        inp: Input of the layer.
        quant_input_scale: s_x, broadcastable to the input, constant along the summed dimensions.
        quant_weight_scale: s_w, one number or one per output channel, in any shape.

    Returns:
        Scale with as many dimensions as the output.

    Example:
        >>> quant_output_scale_impl(F.linear, torch.ones(3, 5), torch.tensor(.5), torch.ones(4, 1))
        tensor([[0.5000, 0.5000, 0.5000, 0.5000]])
    """
    rank = inp.dim()
    return _per_input(quant_input_scale, rank) * _per_channel(fn, quant_weight_scale, rank)


def sums_one_scale(
    fn: Callable[..., Any],
    inp: Tensor,
    quant_input_scale: Tensor,
    groups: int = 1,
    out_channels: int | None = None,
) -> bool:
    """Tell whether all products that an output sums have one input scale.

    Only then is there an integer accumulator. The scale may vary between samples, and between
    the channels of a depthwise convolution with one output for each, but not along the dimensions
    that are summed over.

    Args:
        fn: `torch.nn.functional.linear` or a (transposed) convolution.
        inp: Input of the layer.
        quant_input_scale: Scale of the input, broadcastable to it.
        groups: Groups of the convolution.
        out_channels: Output channels; None for as many as there are input channels.

    Example:
        >>> x, per_channel = torch.ones(1, 3, 5, 5), torch.ones(1, 3, 1, 1)
        >>> sums_one_scale(torch.conv2d, x, per_channel)
        False
        >>> sums_one_scale(torch.conv2d, x, per_channel, groups=3)
        True
    """
    if is_per_tensor(quant_input_scale):
        return True
    spatial = _SPATIAL_DIMS[fn]
    channel = inp.dim() - 1 - spatial
    sizes = _per_input(quant_input_scale, inp.dim()).shape
    channels = inp.shape[channel]
    is_depthwise = spatial > 0 and groups == channels and out_channels in (None, channels)
    return all(size == 1 for size in sizes[channel + is_depthwise :])


def _weight_bit_width(weight: Any) -> Tensor:
    """Bits of `q_w - z_w`: one more than of `q_w` if there is a zero point."""
    zero = known_no_zero_point(weight)
    if zero is None:
        return weight.bit_width + weight.zero_point.any()
    return weight.bit_width if zero else weight.bit_width + 1


def _is_padded(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if fn in TRANSPOSED:
        return True
    padding = argument(args, kwargs, 1, "padding", 0) if fn in _CONVOLUTIONS else 0
    return padding != "valid" and any((padding,) if isinstance(padding, (int, str)) else padding)


def _input_offset(fn: Any, x: Any, weight: Any, args: Any, kwargs: Any) -> Tensor:
    """`z_x * sum (q_w - z_w)` for each output channel, and position if zeros are padded."""
    value, rank = x.value, x.value.dim()
    zero_point = _per_input(x.zero_point, rank)
    integers = torch.round(weight.value.detach() / weight.scale.detach())
    if is_per_tensor(zero_point) and not _is_padded(fn, args, kwargs):
        return zero_point * _per_channel(fn, integers.flatten(1).sum(1), rank)
    # Leading dimensions stay as small as they are, those that are summed over are expanded.
    summed_dims = _SPATIAL_DIMS[fn] + 1
    leading = zero_point.shape[: rank - summed_dims]
    expanded = zero_point.expand(*leading, *value.shape[rank - summed_dims :])
    return fn(expanded.to(integers.dtype), integers, None, *args, **kwargs)


def _repeat_over_groups(fn: Any, weight: Any, args: Any, kwargs: Any) -> Tensor:
    """Weight scale of every output channel: groups of a transposed convolution share theirs."""
    groups = argument(args, kwargs, 3, "groups", 1) if fn in TRANSPOSED else 1
    scale = weight.scale
    return scale if groups == 1 or is_per_tensor(scale) else scale.flatten().repeat(groups)


def _add_bias(output: LayerOutput, bias: Any, fn: Callable[..., Any], rank: int) -> LayerOutput:
    """Fold a bias in: a quantized one on the scale of the output adds bits, else a zero point."""
    if not is_affine_int(bias):
        bias = _unpack_quant_tensor(bias)
        offset = _per_channel(fn, bias, rank) / output.scale
        return output._replace(zero_point=output.zero_point - offset, has_zero_point=None)
    bias_scale = _per_channel(fn, bias.scale, rank)
    same = known_equal(bias_scale, output.scale)
    real_offset = None
    if not same:
        real_offset = -_per_channel(fn, bias.value, rank) / output.scale
        if same is None:
            zero = torch.zeros_like(real_offset)
            real_offset = torch.where(is_close(bias_scale, output.scale), zero, real_offset)
    zero_point, has_zero_point = output.zero_point, output.has_zero_point
    if real_offset is not None:
        zero_point, has_zero_point = zero_point + real_offset, None
    elif not known_no_zero_point(bias):
        zero_point, has_zero_point = zero_point + _per_channel(fn, bias.zero_point, rank), None
    return output._replace(
        zero_point=zero_point,
        bit_width=torch.maximum(output.bit_width, bias.bit_width) + 1,
        signed=output.signed or bias.signed,
        training=output.training or bias.training,
        has_zero_point=has_zero_point,
    )


def layer_output(
    fn: Callable[..., Any],
    quant_input: Any,
    quant_weight: Any,
    bias: Any,
    *args: Any,
    **kwargs: Any,
) -> LayerOutput:
    """Scale, zero point, bit width and flags of the output of a layer, without computing it.

    Args:
        fn: `torch.nn.functional.linear` or a (transposed) convolution.
        quant_input: Affine integer input.
        quant_weight: Affine integer weight, with a scale per tensor or per output channel.
        bias: Quantized or plain bias `[out]`, or None.
        *args: Arguments of `fn` after the bias.
        **kwargs: The same by name.

    Returns:
        Fields that together with the value make an affine integer tensor.

    Example:
        >>> from brevitas.quant_tensor import IntQuantTensor
        >>> x = IntQuantTensor(torch.ones(3, 2), 0.5, 0, 8, signed=True, training=False)
        >>> w = IntQuantTensor(torch.ones(4, 2), 0.25, 0, 8, signed=True, training=False)
        >>> output = layer_output(F.linear, x, w, None)
        >>> output.scale, output.bit_width
        (tensor([[0.1250]]), tensor(17.))
    """
    rank = quant_input.value.dim()
    weight_scale = _repeat_over_groups(fn, quant_weight, args, kwargs)
    scale = quant_output_scale_impl(fn, quant_input.value, quant_input.scale, weight_scale)
    input_bits, weight_bits = quant_input.bit_width, _weight_bit_width(quant_weight)
    shape = quant_weight.value.shape
    bit_width = FN_ACC_BITWIDTH_MAPPING[fn](input_bits, weight_bits, shape, *args, **kwargs)
    weight_has_sign = quant_weight.signed or not known_no_zero_point(quant_weight)
    if quant_input.signed and not weight_has_sign:
        terms = TERMS[fn](shape, *args, **kwargs)
        bit_width = with_lowest_integer(bit_width, input_bits, weight_bits, terms)
    factors = ((input_bits, quant_input.signed), (weight_bits, quant_weight.signed))
    has_zero_point = not known_no_zero_point(quant_input)
    if not has_zero_point:
        zero_point = scale.new_zeros(1)
    else:
        zero_point = _input_offset(fn, quant_input, quant_weight, args, kwargs)
    output = LayerOutput(
        scale=scale,
        zero_point=zero_point,
        bit_width=with_sign_bit(bit_width, *factors),
        signed=quant_input.signed or weight_has_sign,
        training=quant_input.training or quant_weight.training,
        has_zero_point=None if has_zero_point else False,
    )
    return output if bias is None else _add_bias(output, bias, fn, rank)
