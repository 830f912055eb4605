"""Scaled dot-product attention with a quantizer on each of its tensors. Layer: nn (L6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brevitas.nn._attention_mask import open_empty_rows, split_blocking
from brevitas.nn.mixin.base import KeywordReport
from brevitas.nn.quant_activation import QuantIdentity
from brevitas.nn.quant_layer import ActQuantType
from brevitas.proxy.runtime_quant import ActQuantProxyFromInjectorBase
from brevitas.quant_tensor import QuantTensor

__all__ = ["QuantAttentionMixin", "plain", "quantizes"]

#: The tensors of attention that a layer quantizes, by the names of their quantizers.
_INNER = (
    "q_scaled_quant",
    "k_transposed_quant",
    "softmax_input_quant",
    "attn_output_weights_quant",
    "v_quant",
)
#: The operands of the last product, whose integers give the integers of the output.
_LAST_OPERANDS = ("attn_output_weights_quant", "v_quant")


def plain(x: Any) -> Any:
    """Return the value of a quant tensor, anything else as it is."""
    return x.value if isinstance(x, QuantTensor) else x


def quantizes(layer: nn.Module) -> bool:
    """Whether a quantizer layer has one; one that is disabled for a while counts, too.

    While a model is calibrated its quantizers are disabled, but want to see their inputs.
    """
    # Not by its exact type: a tracer wraps layers in classes derived from theirs.
    if not isinstance(layer, QuantIdentity) or type(layer).forward is not QuantIdentity.forward:
        return True
    proxy = layer.act_quant
    is_ours = isinstance(proxy, ActQuantProxyFromInjectorBase)
    return not is_ours or proxy.fused_activation_quant_proxy is not None


class QuantAttentionMixin:
    """Attaches the quantizers inside of attention, and computes it with them.

    With ``q, k, v`` for queries, keys and values and one quantizer for each tensor::

        weights = quant(softmax(quant(quant(scale * q) @ quant(k.T)) + mask))
        output = weights @ quant(v)
    """

    q_scaled_quant: nn.Module
    k_transposed_quant: nn.Module
    softmax_input_quant: nn.Module
    attn_output_weights_quant: nn.Module
    v_quant: nn.Module

    def attach_attention_quant(
        self,
        quantizers: Mapping[str, ActQuantType | None],
        report: KeywordReport,
        factory: dict[str, Any],
        keeps_integers: bool,
    ) -> None:
        """Build a layer for each quantizer, in the order given.

        Args:
            quantizers: quantizer classes, proxies to share or None, by the name of their layer.
            report: the keywords of the layer; those of ``v_quant`` start with ``v_``.
            factory: device and dtype of the quantizers.
            keeps_integers: whether the product of weights and values keeps scale and bit width,
                where both are quantized.
        """
        keeps_integers = keeps_integers and all(
            quantizers[name] is not None for name in _LAST_OPERANDS
        )
        for name, quant in quantizers.items():
            returns = keeps_integers and name in _LAST_OPERANDS
            with report.part(name.removesuffix("quant")) as keywords:
                arguments = {"return_quant_tensor": returns, **factory, **keywords}
                setattr(self, name, QuantIdentity(quant, **arguments))

    @property
    def quantizes_attention(self) -> bool:
        """False where everything between the projections is in floating point."""
        return any(quantizes(getattr(self, name)) for name in _INNER)

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scale: float,
        dropout_p: float,
        repeats: int = 1,
        has_empty_rows: bool = True,
    ) -> tuple[Tensor | QuantTensor, Tensor]:
        """Compute attention step by step, with the quantizer of each.

        A query that may attend to no key gets zeros.

        Args:
            query: queries, ``[..., L, E]``.
            key: keys, ``[..., S, E]``.
            value: values, ``[..., S, V]``.
            mask: what to add to the scores, broadcastable to ``[..., L, S]``, or None.
            scale: factor of the queries.
            dropout_p: probability with which a weight is dropped.
            repeats: heads of queries that share one of keys and values, in dimension -3.
            has_empty_rows: whether the mask may block all keys of a query.

        Returns:
            The output ``[..., L, V]`` and the weights ``[..., L, S]``.
        """
        empty_rows = None
        if mask is not None and has_empty_rows:
            mask, empty_rows = open_empty_rows(mask)
        quant_query = plain(self.q_scaled_quant(query * scale))
        quant_key = plain(self.k_transposed_quant(key.transpose(-2, -1)))
        quant_value = self.v_quant(value)
        if repeats > 1:
            quant_key = quant_key.repeat_interleave(repeats, dim=-3)
            quant_value = quant_value.repeat_interleave(repeats, dim=-3)
        scores = self._quantize_scores(torch.matmul(quant_query, quant_key), mask)
        weights = F.softmax(scores, dim=-1)
        if empty_rows is not None:
            weights = weights.masked_fill(empty_rows, 0.0)
        if dropout_p > 0.0:
            weights = F.dropout(weights, p=dropout_p)
        quant_weights = self.attn_output_weights_quant(weights)
        return torch.matmul(quant_weights, quant_value), plain(quant_weights)

    def _quantize_scores(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return plain(self.softmax_input_quant(scores))
        if not quantizes(self.softmax_input_quant):
            return scores + mask
        finite, blocking = split_blocking(mask)
        return plain(self.softmax_input_quant(scores + finite)) + blocking
