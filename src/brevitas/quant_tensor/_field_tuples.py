"""The fields of each kind of quantized tensor, in order, without behaviour.

Layer: quant_tensor (L2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class IntQuantTensorBase(NamedTuple):
    """The fields of an affine integer tensor, without behaviour."""

    value: Tensor
    scale: Tensor
    zero_point: Tensor
    bit_width: Tensor
    signed_t: Tensor
    training_t: Tensor


class FloatQuantTensorBase(NamedTuple):
    """The fields of a minifloat tensor, without behaviour."""

    value: Tensor
    scale: Tensor
    zero_point: Tensor
    exponent_bit_width: Tensor
    mantissa_bit_width: Tensor
    exponent_bias: Tensor
    saturating_t: Tensor
    inf_values: Sequence[str] | None
    nan_values: Sequence[str] | None
    signed_t: Tensor
    training_t: Tensor


class GroupwisIntQuantTensorBase(NamedTuple):
    """The fields of an affine integer tensor with a scale for each group, without behaviour."""

    value_: Tensor
    scale_: Tensor
    zero_point_: Tensor
    group_size: int
    group_dim: int
    bit_width: Tensor
    signed_t: Tensor
    training_t: Tensor
    dequant_shape: Sequence[int] | None = None


class GroupwiseFloatQuantTensorBase(NamedTuple):
    """The fields of a minifloat tensor with a scale for each group, without behaviour."""

    value_: Tensor
    scale_: Tensor
    zero_point_: Tensor
    group_size: int
    group_dim: int
    exponent_bit_width: Tensor
    mantissa_bit_width: Tensor
    exponent_bias: Tensor
    saturating_t: Tensor
    inf_values: Sequence[str] | None
    nan_values: Sequence[str] | None
    signed_t: Tensor
    training_t: Tensor
    dequant_shape: Sequence[int] | None = None
