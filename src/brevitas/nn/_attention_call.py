"""One call of multi-head attention, from projected inputs to merged heads. Layer: nn (L6)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from brevitas.nn._attention import QuantAttentionMixin, plain
from brevitas.nn._attention_heads import HeadLayout
from brevitas.nn._attention_mask import causal_mask, extend_mask, join_masks

__all__ = ["AttentionCall", "attend_heads"]


class AttentionCall(NamedTuple):
    """What one call of multi-head attention asks for beside its inputs.

    Attributes:
        layout: where batch, sequence and heads are.
        key_padding_mask: mask of padded keys, or None.
        attn_mask: mask of pairs of query and key, or None.
        need_weights: whether the weights are returned, too.
        average_attn_weights: whether they are averaged over the heads.
        dropout_p: probability with which a weight is dropped.
        is_causal: whether ``attn_mask`` is causal, or is to be made so where it is None.
        bias_k: one more key, ``[1, 1, embed_dim]``, or None.
        bias_v: one more value, likewise.
        add_zero_attn: whether to add one more key and value, which are 0.
        static_k: keys to use in place of the projected ones, ``[N * heads, S, d]``, or None.
        static_v: values to use in place of the projected ones, likewise.
    """

    layout: HeadLayout
    key_padding_mask: Tensor | None
    attn_mask: Tensor | None
    need_weights: bool
    average_attn_weights: bool
    dropout_p: float
    is_causal: bool = False
    bias_k: Tensor | None = None
    bias_v: Tensor | None = None
    add_zero_attn: bool = False
    static_k: Tensor | None = None
    static_v: Tensor | None = None


def attend_heads(
    attention: QuantAttentionMixin, call: AttentionCall, projected: tuple[Any, ...]
) -> tuple[Any, Tensor | None]:
    """Compute attention for all heads at once.

    Args:
        attention: the quantizers.
        call: what is asked for.
        projected: projected queries, keys and values, laid out as the call says.

    Returns:
        The output with its heads merged, laid out as the call says, and the weights or None.
    """
    layout = call.layout
    query, keys, values = (plain(x) for x in projected)
    query = layout.split(query)
    keys = layout.split(_with_extra(_static_or(keys, call.static_k, layout), call.bias_k, call))
    values = layout.split(_with_extra(_static_or(values, call.static_v, layout), call.bias_v, call))
    extra = (call.bias_k is not None) + call.add_zero_attn
    if not (call.need_weights or attention.quantizes_attention):
        plainly_causal = call.is_causal and call.key_padding_mask is None and not extra
        mask = None if plainly_causal else extend_mask(_mask(call, query, keys, extra), extra)
        output = F.scaled_dot_product_attention(
            query, keys, values, mask, call.dropout_p, is_causal=plainly_causal
        )
        return layout.merge(output), None
    # Extended last: before, a tracer with any number of keys would fail to flatten it.
    mask = extend_mask(layout.mask_of_heads(_mask(call, query, keys, extra)), extra)
    query, keys, values = (x.flatten(0, 1) for x in (query, keys, values))
    scale = query.shape[-1] ** -0.5
    output, weights = attention.attend(query, keys, values, mask, scale, call.dropout_p)
    output = layout.merge(layout.unfold(output))
    return output, _returned_weights(weights, call) if call.need_weights else None


def _static_or(projected: Tensor, static: Tensor | None, layout: HeadLayout) -> Tensor:
    """Return what replaces the projected keys or values, laid out as these."""
    return projected if static is None else layout.merge(layout.unfold(static))


def _with_extra(x: Tensor, bias: Tensor | None, call: AttentionCall) -> Tensor:
    """Put the learned row and the row of zeros behind all keys or values."""
    dim = call.layout.sequence_dim
    row = x.narrow(dim, 0, 1)
    rows = [x]
    if bias is not None:
        rows.append(bias.to(x.dtype).reshape(-1).expand_as(row))
    if call.add_zero_attn:
        rows.append(torch.zeros_like(row))
    return torch.cat(rows, dim=dim) if len(rows) > 1 else x


def _mask(call: AttentionCall, query: Tensor, keys: Tensor, extra: int) -> Tensor | None:
    """Join the masks of a call to one for all keys but the extra ones, None where there is none."""
    mask = padding = None
    if call.attn_mask is not None:
        mask = call.layout.attention_mask(call.attn_mask, query.dtype)
    elif call.is_causal:
        mask = causal_mask(query.shape[-2], keys.shape[-2] - extra, query)
    if call.key_padding_mask is not None:
        padding = call.layout.padding_mask(call.key_padding_mask, query.dtype)
    return join_masks(mask, padding)


def _returned_weights(weights: Tensor, call: AttentionCall) -> Tensor:
    weights = call.layout.unfold(weights)
    weights = weights.mean(dim=1) if call.average_attn_weights else weights
    return weights if call.layout.is_batched else weights.squeeze(0)
