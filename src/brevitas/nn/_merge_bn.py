"""Folds a batch normalization into the layer before it, quantized or not. Layer: nn (L6)."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from brevitas.core.scaling import ParameterFromStatsFromParameterScaling, ParameterScaling
from brevitas.quant_tensor import IntQuantTensor
from brevitas.utils.python_utils import levels_to_caller

__all__ = ["merge_bn", "mul_add_from_bn"]

#: Change of a weight, in steps of its integers, that is no more than float rounding.
ROUNDING = 1e-3
_LEARNED_SCALES = (ParameterScaling, ParameterFromStatsFromParameterScaling)


def mul_add_from_bn(
    bn_mean: Tensor,
    bn_var: Tensor,
    bn_eps: float,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Write a batch normalization in evaluation as ``y = x * factor + offset``.

    ``factor = weight / sqrt(var + eps)`` and ``offset = bias - mean * factor``.

    Args:
        bn_mean: running mean, ``[channels]``.
        bn_var: running variance, ``[channels]``.
        bn_eps: number added to the variance.
        bn_weight: learned factor, ``[channels]``; None for one.
        bn_bias: learned offset, ``[channels]``; None for zero.

    Returns:
        ``(factor, offset)``, each ``[channels]``.

    Example:
        >>> ones, zeros = torch.ones(1), torch.zeros(1)
        >>> mul_add_from_bn(ones, 4 * ones, 0.0, ones, zeros)
        (tensor([0.5000]), tensor([-0.5000]))

    Reference: Ioffe and Szegedy, "Batch Normalization", 2015.
    """
    factor = torch.rsqrt(bn_var + bn_eps)
    factor = factor if bn_weight is None else bn_weight * factor
    offset = -bn_mean * factor
    return factor, offset if bn_bias is None else bn_bias + offset


def merge_bn(layer: Any, bn: Any, output_channel_dim: int = 0) -> None:
    """Fold a batch normalization into the layer before it, in place.

    ``weight *= factor`` along the output channels and ``bias = bias * factor + offset``; the
    layer is given a bias where it has none. Scales per channel, from statistics or learned, are
    multiplied by ``|factor|``: the integers of the weight stay, but for their sign. Where they
    cannot stay (one scale for all channels, powers of two), a warning says how far they moved.

    Args:
        layer: layer with ``weight`` and ``bias``.
        bn: batch normalization with running statistics.
        output_channel_dim: dimension of the weight that counts output channels.

    Raises:
        ValueError: when the batch normalization keeps no running statistics.

    Example:
        >>> from brevitas.nn import QuantLinear
        >>> from brevitas.quant import Int8WeightPerChannelFloat
        >>> layer = QuantLinear(8, 4, weight_quant=Int8WeightPerChannelFloat)
        >>> integers = layer.quant_weight().int()
        >>> merge_bn(layer, nn.BatchNorm1d(4))
        >>> torch.equal(layer.quant_weight().int(), integers)
        True

    Reference: Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", 2018, section 3.2.
    """
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError(
            f"bn={bn!r}: expected running statistics to fold in; use track_running_stats=True."
        )
    with torch.no_grad():
        _merge(layer, bn, output_channel_dim)


def _merge(layer: Any, bn: Any, output_channel_dim: int) -> None:
    factor, offset = mul_add_from_bn(bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias)
    groups = getattr(layer, "groups", 1) if output_channel_dim == 1 else 1
    before = _quantized_weight(layer)
    _multiply_channels(layer.weight.data, factor, output_channel_dim, groups)
    if layer.bias is None:
        layer.register_parameter("bias", nn.Parameter(offset.to(layer.weight)))
    else:
        layer.bias.data.mul_(factor).add_(offset)
    if before is not None:
        _multiply_learned_scale(layer.weight_quant, factor)
        expected = before.value.clone()
        _multiply_channels(expected, factor, output_channel_dim, groups)
        _report_change(layer, expected)


def _multiply_channels(weight: Tensor, factor: Tensor, channel_dim: int, groups: int) -> None:
    """Multiply output channels, in place; ``[in, out / groups, ...]`` holds groups along inputs."""
    if groups > 1:
        tail = (1,) * (weight.dim() - 2)
        per_group = weight.view(groups, weight.shape[0] // groups, *weight.shape[1:])
        per_group.mul_(factor.reshape(groups, 1, -1, *tail))
    else:
        shape = [1] * weight.dim()
        shape[channel_dim] = -1
        weight.mul_(factor.reshape(shape))


def _quantized_weight(layer: Any) -> IntQuantTensor | None:
    """The integers of the layer's weight; None where it has none of its own."""
    proxy = getattr(layer, "weight_quant", None)
    if proxy is None or not proxy.is_quant_enabled or proxy.requires_quant_input:
        return None
    weight = layer.quant_weight()
    return weight if isinstance(weight, IntQuantTensor) else None


def _multiply_learned_scale(proxy: Any, factor: Tensor) -> None:
    """Multiply a scale that is learned for each channel; a channel of factor zero keeps its own."""
    scaling: Any = getattr(proxy.tensor_quant, "scaling_impl", None)
    is_shared = len(proxy.tracked_module_list) > 1
    if type(scaling) not in _LEARNED_SCALES or is_shared:
        return
    if scaling.value.numel() != factor.numel():
        return
    restriction = scaling.restriction
    real = restriction.restrict_value_impl(scaling.value)
    magnitude = torch.where(factor == 0, 1.0, factor.abs()).reshape(real.shape)
    scaling.value.copy_(restriction.to_stored(real * magnitude))


def _report_change(layer: Any, expected: Tensor) -> None:
    """Warn where the quantized weight is not what it was, times the factors."""
    weight = layer.quant_weight()
    steps = ((weight.value - expected) / weight.scale).abs()
    if steps.numel() and float(steps.max()) > ROUNDING:
        warnings.warn(
            f"merge_bn: the quantized weight of {type(layer).__name__}({layer.extra_repr()}) moved "
            f"by up to {float(steps.max()):.2f} of its integer steps, {float(steps.mean()):.2f} on "
            "average, since its scale cannot follow the factors of the channels. Quantize it per "
            "channel (e.g. Int8WeightPerChannelFloat), or merge before quantizing, to avoid that.",
            UserWarning,
            stacklevel=levels_to_caller(),
        )
