"""Scaled dot-product attention as a module, in floating point and quantized. Layer: nn (L6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brevitas.common import ExportMixin, LayerProtocol
from brevitas.function.ops import identity
from brevitas.nn._attention import QuantAttentionMixin, plain
from brevitas.nn._attention_mask import additive_mask, causal_mask, check_mask_dtype
from brevitas.nn.mixin.base import KeywordReport
from brevitas.nn.quant_layer import ActQuantType
from brevitas.quant.scaled_int import Int8ActPerTensorFloat, Uint8ActPerTensorFloat
from brevitas.quant_tensor import QuantTensor

__all__ = ["QuantScaledDotProductAttention", "ScaledDotProductAttention"]

PreProcess = Callable[[Any], Any]


class ScaledDotProductAttention(nn.Module):
    """``torch.nn.functional.scaled_dot_product_attention`` as a module.

    As a module it can be replaced, such as by ``QuantScaledDotProductAttention``.

    Args:
        pre_process_q: function of the queries; a module is a child of this one.
        pre_process_k: function of the keys.
        pre_process_v: function of the values.

    Example:
        >>> attention = ScaledDotProductAttention(pre_process_q=torch.nn.LayerNorm(8))
        >>> x = torch.randn(2, 4, 5, 8)
        >>> attention(x, x, x, is_causal=True).shape
        torch.Size([2, 4, 5, 8])
    """

    def __init__(
        self,
        pre_process_q: PreProcess = identity,
        pre_process_k: PreProcess = identity,
        pre_process_v: PreProcess = identity,
    ) -> None:
        super().__init__()
        self.pre_process_q = pre_process_q
        self.pre_process_k = pre_process_k
        self.pre_process_v = pre_process_v

    def forward(
        self,
        query: Tensor | QuantTensor,
        key: Tensor | QuantTensor,
        value: Tensor | QuantTensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Attend with each query to the keys, and return the weighted values.

        Args:
            query: queries, ``[..., heads, L, E]``.
            key: keys, ``[..., heads, S, E]``.
            value: values, ``[..., heads, S, V]``.
            attn_mask: pairs to attend to, broadcastable to ``[..., L, S]``: boolean, where False
                leaves out, or floating-point, which is added to the scores.
            dropout_p: probability with which a weight is dropped, in evaluation, too.
            is_causal: attend with query ``i`` to the keys ``0 .. i`` only.
            scale: factor of the scores; ``1 / sqrt(E)`` by default.
            enable_gqa: let groups of query heads share the heads of keys and values.

        Returns:
            The output, ``[..., heads, L, V]``.

        Raises:
            ValueError: on a mask together with ``is_causal``.
        """
        query, key, value = _pre_process(self, query, key, value)
        _check_masks(attn_mask, is_causal, self)
        options = (attn_mask, dropout_p, is_causal)
        return F.scaled_dot_product_attention(
            query, key, value, *options, scale=scale, enable_gqa=enable_gqa
        )


class QuantScaledDotProductAttention(QuantAttentionMixin, nn.Module, LayerProtocol, ExportMixin):
    """Scaled dot-product attention with a quantizer on each tensor of both products.

    ``output = quant(quant(softmax(quant(quant(scale * q) @ quant(k.T)) + mask)) @ quant(v))``

    Without quantizers it is ``torch.nn.functional.scaled_dot_product_attention``. A query whose
    keys all are masked gets zeros. Keys and values that groups of heads share are quantized once.

    Args:
        pre_process_q: function of the queries; a module is a child of this one.
        pre_process_k: function of the keys.
        pre_process_v: function of the values.
        softmax_input_quant: quantizer of the scores. It sees them before a mask takes keys away.
        attn_output_weights_quant: quantizer of the weights, after dropout.
        q_scaled_quant: quantizer of the scaled queries.
        k_transposed_quant: quantizer of the transposed keys, ``[..., E, S]``.
        v_quant: quantizer of the values.
        sdpa_output_quant: quantizer of the output.
        device: device of the quantizers.
        dtype: dtype of the quantizers.
        **kwargs: declarations of the quantizers by prefix, e.g. ``q_scaled_bit_width=4``. With
            ``sdpa_output_return_quant_tensor=True`` the output is a quant tensor: of its quantizer,
            or without one of the product of quantized weights and values.

    Example:
        >>> attention = QuantScaledDotProductAttention(v_bit_width=4)
        >>> q, k = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 6, 8)
        >>> attention(q, k, k).shape
        torch.Size([2, 4, 5, 8])
    """

    sdpa_output_quant: nn.Module

    def __init__(
        self,
        pre_process_q: PreProcess = identity,
        pre_process_k: PreProcess = identity,
        pre_process_v: PreProcess = identity,
        softmax_input_quant: ActQuantType | None = None,
        attn_output_weights_quant: ActQuantType | None = Uint8ActPerTensorFloat,
        q_scaled_quant: ActQuantType | None = Int8ActPerTensorFloat,
        k_transposed_quant: ActQuantType | None = Int8ActPerTensorFloat,
        v_quant: ActQuantType | None = Int8ActPerTensorFloat,
        sdpa_output_quant: ActQuantType | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        nn.Module.__init__(self)
        ExportMixin.__init__(self)
        self.pre_process_q = pre_process_q
        self.pre_process_k = pre_process_k
        self.pre_process_v = pre_process_v
        quantizers = {
            "q_scaled_quant": q_scaled_quant,
            "k_transposed_quant": k_transposed_quant,
            "v_quant": v_quant,
            "softmax_input_quant": softmax_input_quant,
            "attn_output_weights_quant": attn_output_weights_quant,
            "sdpa_output_quant": sdpa_output_quant,
        }
        report = KeywordReport(self, kwargs)
        returns = kwargs.get("sdpa_output_return_quant_tensor", False)
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        keeps_integers = returns and sdpa_output_quant is None
        self.attach_attention_quant(quantizers, report, factory, keeps_integers)
        report.warn_unused()

    @property
    def requires_export_handler(self) -> bool:
        """False: its quantizers and the operations between them represent it."""
        return False

    def forward(
        self,
        query: Tensor | QuantTensor,
        key: Tensor | QuantTensor,
        value: Tensor | QuantTensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor | QuantTensor:
        """Attend with each query to the keys; arguments as ``ScaledDotProductAttention.forward``.

        Returns:
            The output, ``[..., heads, L, V]``; a quant tensor where one is asked for.

        Raises:
            ValueError: on a mask together with ``is_causal``, or numbers of heads that do not
                fit with ``enable_gqa``.
        """
        query, key, value = _pre_process(self, query, key, value)
        _check_masks(attn_mask, is_causal, self)
        if not self.quantizes_attention:
            options = (attn_mask, dropout_p, is_causal)
            output = F.scaled_dot_product_attention(
                query, key, value, *options, scale=scale, enable_gqa=enable_gqa
            )
            return self.sdpa_output_quant(output)
        mask = None
        if attn_mask is not None:
            mask = additive_mask(attn_mask, query.dtype, blocks=False)
        elif is_causal:
            mask = causal_mask(query.shape[-2], key.shape[-2], query)
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        repeats = _query_heads_per_key_head(query, key, value) if enable_gqa else 1
        # The first key is open to every query under the causal mask.
        options = (dropout_p, repeats, not is_causal)
        output, _ = self.attend(query, key, value, mask, factor, *options)
        return self.sdpa_output_quant(output)


def _pre_process(layer: Any, *inputs: Any) -> tuple[Any, ...]:
    functions = (layer.pre_process_q, layer.pre_process_k, layer.pre_process_v)
    return tuple(plain(function(x)) for function, x in zip(functions, inputs, strict=True))


def _check_masks(attn_mask: Tensor | None, is_causal: bool, layer: nn.Module) -> None:
    name = type(layer).__name__
    if attn_mask is None:
        return
    if is_causal:
        raise ValueError(
            f"attn_mask of shape {tuple(attn_mask.shape)} with is_causal=True: expected one of "
            f"them; take both into attn_mask. Layer: {name}"
        )
    check_mask_dtype("attn_mask", attn_mask, False, name)


def _query_heads_per_key_head(query: Tensor, key: Tensor, value: Tensor) -> int:
    heads = [x.shape[-3] for x in (query, key, value)]
    if heads[0] % heads[1] or heads[1] != heads[2]:
        raise ValueError(
            f"enable_gqa=True with {heads[0]} heads of queries, {heads[1]} of keys and {heads[2]} "
            "of values: expected as many of keys as of values, and a multiple of that of queries."
        )
    return heads[0] // heads[1]
