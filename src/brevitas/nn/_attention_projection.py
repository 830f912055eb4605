"""The input projections of multi-head attention, one layer or three. Layer: nn (L6)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from brevitas.nn._attention import plain
from brevitas.nn.quant_linear import QuantLinear

__all__ = ["PROJECTIONS", "project_packed", "rename_float_state"]

#: The separate input projections, in the order in which a packed one holds them.
PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def project_packed(
    in_proj: QuantLinear, query: Any, key: Any, value: Any, sequence_dim: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Project queries, keys and values by one layer, called once.

    In self-attention this is one product. Otherwise the inputs are put one behind the other along
    the sequence, so that they share the input's quantizer and the layer's hooks see them; of the
    outputs of each only the part that is needed is used.

    Args:
        in_proj: layer whose output is ``[..., 3 * embed_dim]``.
        query: input of the queries.
        key: input of the keys; may be the same object as another input, as may ``value``.
        value: input of the values.
        sequence_dim: dimension along which the inputs are put one behind the other.

    Returns:
        Queries, keys and values.
    """
    inputs = [query]
    places = [0]
    for x in (key, value):
        known = [place for place, other in enumerate(inputs) if other is x]
        places.append(known[0] if known else len(inputs))
        inputs += [] if known else [x]
    if len(inputs) == 1:
        query, key, value = plain(in_proj(query)).chunk(3, dim=-1)
        return query, key, value
    sizes = [x.shape[sequence_dim] for x in inputs]
    if in_proj.input_quant.is_quant_enabled:
        inputs = [plain(x) for x in inputs]
    rows = plain(in_proj(torch.cat(inputs, dim=sequence_dim))).split(sizes, dim=sequence_dim)
    query, key, value = (rows[place].chunk(3, dim=-1)[i] for i, place in enumerate(places))
    return query, key, value


def rename_float_state(state_dict: dict[str, Any], prefix: str, is_packed: bool) -> None:
    """Rename what ``torch.nn.MultiheadAttention`` stores to what the layers here are called.

    ======================  ===================  =====================================
    stored                  packed projection    separate projections
    ======================  ===================  =====================================
    ``in_proj_weight``      ``in_proj.weight``   a third each: ``q_proj.weight``, ...
    ``in_proj_bias``        ``in_proj.bias``     a third each: ``q_proj.bias``, ...
    ``q_proj_weight``, ...                       ``q_proj.weight``, ...
    ======================  ===================  =====================================

    Output projection and ``bias_k``, ``bias_v`` have the same names in both.

    Args:
        state_dict: state to load; changed in place.
        prefix: start of the names that belong to the layer.
        is_packed: whether the layer has one input projection.
    """
    for name in ("weight", "bias"):
        packed = state_dict.pop(f"{prefix}in_proj_{name}", None)
        if packed is not None and is_packed:
            state_dict[f"{prefix}in_proj.{name}"] = packed
        elif packed is not None:
            for projection, part in zip(PROJECTIONS, packed.chunk(3), strict=True):
                state_dict[f"{prefix}{projection}.{name}"] = part
    if not is_packed:
        for projection in PROJECTIONS:
            weight = state_dict.pop(f"{prefix}{projection}_weight", None)
            if weight is not None:
                state_dict[f"{prefix}{projection}.weight"] = weight
