"""Folding batch normalizations, merging weights, renaming checkpoint keys. Layer: nn (L6)."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from torch import Tensor

from brevitas.nn._merge_bn import merge_bn, mul_add_from_bn
from brevitas.nn._merge_quant_weights import merge_quant_weights

__all__ = [
    "check_tensors_same_ptr",
    "merge_bn",
    "merge_quant_weights",
    "mul_add_from_bn",
    "rename_state_dict_by_postfix",
    "rename_state_dict_by_prefix",
]


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
