"""How multi-head attention lays out its tensors, and which shapes it takes. Layer: nn (L6)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from brevitas.nn._attention_mask import additive_mask, check_mask_dtype

__all__ = ["HeadLayout", "check_shapes"]


class HeadLayout(NamedTuple):
    """Where batch, sequence and heads are in the tensors of one call.

    Attributes:
        num_heads: number of heads.
        is_batched: whether there is a batch dimension.
        batch_first: whether it comes before the sequence.
    """

    num_heads: int
    is_batched: bool
    batch_first: bool

    @property
    def sequence_dim(self) -> int:
        """The dimension that counts queries or keys."""
        return 1 if self.is_batched and self.batch_first else 0

    def split(self, x: Tensor) -> Tensor:
        """Give each head its features: ``[N, heads, L, features of a head]``."""
        heads = x.unflatten(-1, (self.num_heads, -1))
        if not self.is_batched:
            return heads.transpose(0, 1).unsqueeze(0)
        return heads.transpose(1, 2) if self.batch_first else heads.permute(1, 2, 0, 3)

    def unfold(self, x: Any) -> Any:
        """Give batch and heads a dimension each where they share the first one."""
        return x.reshape(-1, self.num_heads, *x.shape[1:])

    def merge(self, heads: Any) -> Any:
        """Undo ``split``; takes quant tensors as well."""
        if not self.is_batched:
            return heads.squeeze(0).transpose(0, 1).flatten(-2)
        order = (0, 2, 1, 3) if self.batch_first else (2, 0, 1, 3)
        return heads.permute(order).flatten(-2)

    def attention_mask(self, mask: Tensor, dtype: torch.dtype) -> Tensor:
        """Return ``attn_mask`` to add to scores ``[N, heads, L, S]``; True blocks."""
        mask = additive_mask(mask, dtype, blocks=True)
        return mask if mask.dim() == 2 else mask.unflatten(0, (-1, self.num_heads))

    def padding_mask(self, mask: Tensor, dtype: torch.dtype) -> Tensor:
        """Return ``key_padding_mask`` to add to scores ``[N, heads, L, S]``; True blocks."""
        mask = additive_mask(mask, dtype, blocks=True)
        return mask[:, None, None, :] if self.is_batched else mask.unsqueeze(0)

    def mask_of_heads(self, mask: Tensor | None) -> Tensor | None:
        """Return a mask to add to scores ``[N * heads, L, S]``."""
        if mask is None or mask.dim() == 2:
            return mask
        if mask.shape[1] != 1:
            return mask.flatten(0, 1)
        return mask.squeeze(1).repeat_interleave(self.num_heads, dim=0)


def check_shapes(
    tensors: dict[str, Any],
    features: dict[str, int],
    key_padding_mask: Tensor | None,
    attn_mask: Tensor | None,
    num_heads: int,
    batch_first: bool,
    layer: str,
) -> HeadLayout:
    """Check the arguments of multi-head attention against each other.

    Args:
        tensors: ``query``, ``key`` and ``value``.
        features: size of the last dimension of each.
        key_padding_mask: mask of padded keys, or None.
        attn_mask: mask of pairs of query and key, or None.
        num_heads: number of heads.
        batch_first: whether the batch comes before the sequence.
        layer: how messages name the layer.

    Returns:
        The layout of the tensors.

    Raises:
        ValueError: on shapes that do not fit; the message says which, and what is accepted.
        TypeError: on a mask that is neither boolean nor floating-point.
    """
    rank = tensors["query"].dim()
    layout = HeadLayout(num_heads, rank == 3, batch_first)
    for name, x in tensors.items():
        if rank not in (2, 3) or x.dim() != rank or x.shape[-1] != features[name]:
            accepted = _accepted(layout, "L" if name == "query" else "S", features[name])
            alike = "" if name == "query" else f", with as many dimensions as query ({rank})"
            raise ValueError(
                f"{name} of shape {tuple(x.shape)}: expected {accepted}{alike}. Layer: {layer}"
            )
    query, key, value = tensors["query"], tensors["key"], tensors["value"]
    if key.shape[:-1] != value.shape[:-1]:
        raise ValueError(
            f"key of shape {tuple(key.shape)} and value of shape {tuple(value.shape)}: expected "
            f"the same number of keys and batches in both. Layer: {layer}"
        )
    batch = query.shape[1 - layout.sequence_dim] if layout.is_batched else 1
    if layout.is_batched and key.shape[1 - layout.sequence_dim] != batch:
        raise ValueError(
            f"query of shape {tuple(query.shape)} and key of shape {tuple(key.shape)}: expected "
            f"the same batch size in both, in dimension {1 - layout.sequence_dim} "
            f"(batch_first={batch_first}). Layer: {layer}"
        )
    queries, keys = query.shape[layout.sequence_dim], key.shape[layout.sequence_dim]
    padding = (batch, keys) if layout.is_batched else (keys,)
    pairs = ((queries, keys), (batch * num_heads, queries, keys))
    _check_mask("key_padding_mask", key_padding_mask, (padding,), layer)
    _check_mask("attn_mask", attn_mask, pairs, layer)
    return layout


def _accepted(layout: HeadLayout, length: str, features: int) -> str:
    batched = f"N, {length}" if layout.batch_first else f"{length}, N"
    return f"[{batched}, {features}], or [{length}, {features}] without a batch"


def _check_mask(
    name: str, mask: Tensor | None, accepted: tuple[tuple[int, ...], ...], layer: str
) -> None:
    if mask is None:
        return
    check_mask_dtype(name, mask, True, layer)
    if not any(mask.shape == shape for shape in accepted):
        raise ValueError(
            f"{name} of shape {tuple(mask.shape)}: expected {' or '.join(map(str, accepted))}. "
            f"Layer: {layer}"
        )
