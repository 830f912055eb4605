"""Torch functions whose result on affine integer tensors is again integers: layers, pools, sums.

Layer: quant_tensor (L2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from brevitas.quant_tensor import _int_arithmetic as arithmetic
from brevitas.quant_tensor import _shared_arithmetic as shared
from brevitas.quant_tensor._accumulator import (
    FN_ACC_BITWIDTH_MAPPING,
    argument,
    max_acc_bit_width_avg_pool2d,
    max_acc_bit_width_convNd,
    max_acc_bit_width_convtransposeNd,
    max_acc_bit_width_linear,
    spread,
    with_sign_bit,
)
from brevitas.quant_tensor._broadcast_fields import is_per_tensor
from brevitas.quant_tensor._int_mixin import has_integers, is_affine_int
from brevitas.quant_tensor._layer_output import (
    TRANSPOSED,
    LayerOutput,
    layer_output,
    quant_output_scale_impl,
    sums_one_scale,
)
from brevitas.quant_tensor._tensor_interface import tensor_functions
from brevitas.quant_tensor.base_quant_tensor import QuantTensor, _unpack_quant_tensor
from brevitas.quant_tensor.torch_handler import CLAMPS, QUANT_TENSOR_FN_HANDLER, embedding

__all__ = [
    "FN_ACC_BITWIDTH_MAPPING",
    "INT_QUANT_TENSOR_FN_HANDLER",
    "LayerOutput",
    "adaptive_window_elements",
    "create_int_quant_tensor",
    "implements_int_qt",
    "layer_output",
    "max_acc_bit_width_avg_pool2d",
    "max_acc_bit_width_convNd",
    "max_acc_bit_width_convtransposeNd",
    "max_acc_bit_width_linear",
    "quant_layer",
    "quant_output_scale_impl",
    "spread",
    "sums_one_scale",
]

Handler = Callable[..., Any]

# torch function -> its rule for affine integers.
INT_QUANT_TENSOR_FN_HANDLER: dict[Any, Handler] = {}


def implements_int_qt(*torch_functions: Any) -> Callable[[Handler], Handler]:
    """Decorator that registers a rule for torch functions on affine integer tensors.

    Args:
        *torch_functions: Functions as torch dispatches them.

    Returns:
        Decorator that returns its argument.
    """

    def register(handler: Handler) -> Handler:
        for torch_function in torch_functions:
            INT_QUANT_TENSOR_FN_HANDLER[torch_function] = handler
        return handler

    return register


def create_int_quant_tensor(
    tensor: Tensor,
    scale: Tensor,
    bit_width: Tensor,
    zero_point: Tensor,
    signed: bool,
    training: bool,
    has_zero_point: bool | None = None,
) -> Any:
    """Build an affine integer tensor; see `IntQuantTensor` for the arguments.

    Args:
        tensor: Its value.
        scale: Real value of one integer step.
        bit_width: Bits of the integers.
        zero_point: Integer that stands for zero.
        signed: Whether the integers have a sign.
        training: Whether scales may still differ between operands.
        has_zero_point: False if `zero_point` is zero by construction. Layers then leave out the
            terms of a zero point also where the host cannot read it, as in a compiled graph.
    """
    if has_zero_point is None:
        return QuantTensor(tensor, scale, zero_point, bit_width, signed, training)
    build = QuantTensor._default_class._from_fields
    return build(tensor, scale, zero_point, bit_width, signed, training, has_zero_point)


def quant_layer(
    fn: Handler, quant_input: Any, quant_weight: Any, bias: Any, *args: Any, **kwargs: Any
) -> Any:
    """Run a linear or convolution layer; quantized input and weight give a quantized output.

    Args:
        fn: `torch.nn.functional.linear` or a (transposed) convolution.
        quant_input: Quantized or plain input.
        quant_weight: Quantized or plain weight.
        bias: Quantized or plain bias, or None.
        *args: Arguments of `fn` after the bias.
        **kwargs: The same by name.

    Returns:
        Affine integer tensor with the accumulator's bit width if input and weight both are
        affine integers and each output sums products of one scale, else a plain tensor.
    """
    operands = _unpack_quant_tensor((quant_input, quant_weight, bias))
    value = fn(*operands, *args, **kwargs)
    if not (is_affine_int(quant_input) and is_affine_int(quant_weight)):
        return value
    groups = argument(args, kwargs, 3, "groups", 1)
    weight = operands[1]
    out_channels = weight.shape[1] * groups if fn in TRANSPOSED else weight.shape[0]
    if not sums_one_scale(fn, operands[0], quant_input.scale, groups, out_channels):
        return value  # no integer accumulator has two scales
    output = layer_output(fn, quant_input, quant_weight, bias, *args, **kwargs)
    return quant_input._from_fields(value, *output)


def _layer_handler(fn: Handler) -> Handler:
    def handler(input: Any, weight: Any, bias: Any = None, *args: Any, **kwargs: Any) -> Any:
        return quant_layer(fn, input, weight, bias, *args, **kwargs)

    return handler


linear_handler = implements_int_qt(F.linear)(_layer_handler(F.linear))
conv1d_handler = implements_int_qt(torch.conv1d)(_layer_handler(torch.conv1d))
conv2d_handler = implements_int_qt(torch.conv2d)(_layer_handler(torch.conv2d))
conv3d_handler = implements_int_qt(torch.conv3d)(_layer_handler(torch.conv3d))
conv_transpose1d_handler = implements_int_qt(torch.conv_transpose1d)(
    _layer_handler(torch.conv_transpose1d)
)
conv_transpose2d_handler = implements_int_qt(torch.conv_transpose2d)(
    _layer_handler(torch.conv_transpose2d)
)
conv_transpose3d_handler = implements_int_qt(torch.conv_transpose3d)(
    _layer_handler(torch.conv_transpose3d)
)


embedding_handler = implements_int_qt(F.embedding)(embedding)


def _pooled(x: Any, value: Tensor, elements: int, divisor: int) -> Any:
    """The record around averages over windows of `elements`, as sums over a finer scale."""
    bits = max_acc_bit_width_avg_pool2d(x.bit_width, elements, x.signed)
    # A zero point that is zero by construction stays known to be.
    fields = {} if x._has_zero_point is False else {"zero_point": x.zero_point * elements}
    return x.set(
        **fields,
        value=value,
        scale=x.scale / divisor,
        bit_width=with_sign_bit(bits, (x.bit_width, x.signed)),
    )


def _ends_inside(size: int, kernel: int, stride: int, padding: int) -> bool:
    return (size + 2 * padding - kernel) % stride == 0


@implements_int_qt(F.avg_pool2d)
def avg_pool2d_handler(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """`torch.nn.functional.avg_pool2d`: sums over windows, on a scale divided by their size.

    Where windows at the border hold fewer elements the result is a plain tensor.
    """
    arguments = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    value = F.avg_pool2d(input.value, *arguments)
    kernel, pads = spread(kernel_size, 2), spread(padding, 2)
    strides = spread(stride, 2) if stride is not None and stride != () else kernel
    sizes = input.value.shape[-2:]
    whole = not ceil_mode or all(map(_ends_inside, sizes, kernel, strides, pads))
    counts_all = count_include_pad or divisor_override is not None or not any(pads)
    elements = kernel[0] * kernel[1]
    if not (whole and counts_all and _is_constant_in_space(input)):
        return value
    return _pooled(input, value, elements, divisor_override or elements)


def _is_constant_in_space(x: Any) -> bool:
    return all(size == 1 for field in (x.scale, x.zero_point) for size in field.shape[-2:]) or all(
        is_per_tensor(field) for field in (x.scale, x.zero_point)
    )


def adaptive_window_elements(sizes: Sequence[int], counts: Sequence[int]) -> int | None:
    """Elements in each window of an adaptive pool, or None where the windows differ.

    Args:
        sizes: Sizes of the dimensions that are pooled.
        counts: Number of windows along each of them.

    Example:
        >>> adaptive_window_elements((6, 6), (3, 2)), adaptive_window_elements((7, 7), (5, 5))
        (6, None)
    """
    elements = 1
    for size, count in zip(sizes, counts, strict=True):
        lengths = {-(-(i + 1) * size // count) - i * size // count for i in range(count)}
        if len(lengths) != 1:
            return None
        elements *= lengths.pop()
    return elements


@implements_int_qt(F.adaptive_avg_pool2d)
def adaptive_avg_pool2d_handler(input: Any, output_size: Any) -> Any:
    """`torch.nn.functional.adaptive_avg_pool2d`: quantized if all windows have one size."""
    value = F.adaptive_avg_pool2d(input.value, output_size)
    elements = adaptive_window_elements(input.value.shape[-2:], value.shape[-2:])
    if elements is None or not _is_constant_in_space(input):
        return value
    return _pooled(input, value, elements, elements)


def with_zeros(rule: Handler) -> Handler:
    """Rule of a function that may bring in zeros, which a binary tensor has no integer for."""

    def handler(input: Any, *args: Any, **kwargs: Any) -> Any:
        output = rule(input, *args, **kwargs)
        if not has_integers(output):
            return output
        bit_width = with_sign_bit(output.bit_width, (output.bit_width, output.signed))
        return output if bit_width is output.bit_width else output.set(bit_width=bit_width)

    return handler


for _function in (*CLAMPS, F.pad, torch.constant_pad_nd):
    implements_int_qt(_function)(with_zeros(QUANT_TENSOR_FN_HANDLER[_function]))

cat_handler = implements_int_qt(torch.cat, torch.concat, torch.concatenate)(shared.concatenate)


_ARITHMETIC: tuple[tuple[Handler, tuple[str, ...]], ...] = (
    (arithmetic.add, ("add", "__add__", "__radd__")),
    (arithmetic.subtract, ("sub", "subtract", "__sub__")),
    (arithmetic.multiply, ("mul", "multiply", "__mul__", "__rmul__")),
    (arithmetic.divide, ("div", "divide", "true_divide", "__truediv__")),
    (arithmetic.reverse_subtract, ("rsub", "__rsub__")),
    (arithmetic.reverse_divide, ("__rtruediv__",)),
    (shared.negate, ("neg", "negative", "__neg__")),
    (shared.absolute, ("abs", "absolute", "__abs__")),
    (arithmetic.matrix_multiply, ("matmul", "mm", "bmm", "__matmul__")),
    (arithmetic.reverse_matrix_multiply, ("__rmatmul__",)),
)
for _rule, _names in _ARITHMETIC:
    implements_int_qt(*tensor_functions(*_names))(_rule)
