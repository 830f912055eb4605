"""Folding batch normalizations and renaming checkpoint keys. Layer: nn (L6)."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "check_tensors_same_ptr",
    "merge_bn",
    "mul_add_from_bn",
    "rename_state_dict_by_postfix",
    "rename_state_dict_by_prefix",
]


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


@torch.no_grad()
def merge_bn(layer: Any, bn: Any, output_channel_dim: int = 0) -> None:
    """Fold a batch normalization into the layer before it, in place.

    ``weight *= factor`` along the output channels and ``bias = bias * factor + offset``; the
    layer is given a bias where it has none.

    Args:
        layer: layer with ``weight`` and ``bias``.
        bn: batch normalization with running statistics.
        output_channel_dim: dimension of the weight that counts output channels.

    Raises:
        ValueError: when the batch normalization keeps no running statistics.
    """
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError(
            f"bn={bn!r}: expected running statistics to fold in; use track_running_stats=True."
        )
    factor, offset = mul_add_from_bn(bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias)
    shape = [1] * layer.weight.dim()
    shape[output_channel_dim] = -1
    groups = getattr(layer, "groups", 1) if output_channel_dim == 1 else 1
    if groups > 1:
        _scale_grouped_transposed(layer, factor, groups)
    else:
        layer.weight.data.mul_(factor.reshape(shape))
    if layer.bias is None:
        layer.register_parameter("bias", nn.Parameter(offset.to(layer.weight)))
    else:
        layer.bias.data.mul_(factor).add_(offset)


def _scale_grouped_transposed(layer: Any, factor: Tensor, groups: int) -> None:
    """A grouped transposed weight ``[in, out / groups, ...]`` holds its groups along inputs."""
    weight = layer.weight.data
    per_group = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    tail = (1,) * (weight.dim() - 2)
    per_group.mul_(factor.reshape(groups, 1, -1, *tail))


def check_tensors_same_ptr(tensor_list: list[Tensor]) -> bool:
    """True when all tensors share one storage address.

    Example:
        >>> x = torch.zeros(2)
        >>> check_tensors_same_ptr([x, x.view(1, 2)]), check_tensors_same_ptr([x, x.clone()])
        (True, False)
    """
    return len({tensor.data_ptr() for tensor in tensor_list}) == 1


def rename_state_dict_by_prefix(
    old_prefix: str, new_prefix: str, state_dict: MutableMapping[str, Any]
) -> None:
    """Rename the keys that start with a prefix, in place.

    Example:
        >>> state = {"old.weight": 1}
        >>> rename_state_dict_by_prefix("old.", "new.", state)
        >>> state
        {'new.weight': 1}
    """
    for key in [key for key in state_dict if key.startswith(old_prefix)]:
        state_dict[new_prefix + key[len(old_prefix) :]] = state_dict.pop(key)


def rename_state_dict_by_postfix(
    old_postfix: str, new_postfix: str, state_dict: MutableMapping[str, Any]
) -> None:
    """Rename the keys that end with a postfix, in place.

    Example:
        >>> state = {"layer.old": 1}
        >>> rename_state_dict_by_postfix("old", "new", state)
        >>> state
        {'layer.new': 1}
    """
    for key in [key for key in state_dict if key.endswith(old_postfix)]:
        stem = key[: len(key) - len(old_postfix)]
        state_dict[stem + new_postfix] = state_dict.pop(key)
