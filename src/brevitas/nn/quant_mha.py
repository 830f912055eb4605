"""Multi-head attention with quantized projections and products. Layer: nn (L6)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from brevitas.nn._attention import QuantAttentionMixin
from brevitas.nn._attention_call import AttentionCall, attend_heads
from brevitas.nn._attention_heads import HeadLayout, check_shapes
from brevitas.nn._attention_projection import PROJECTIONS, project_packed, rename_float_state
from brevitas.nn.mixin.base import KeywordReport
from brevitas.nn.quant_layer import ActQuantType, BiasQuantType, WeightQuantType
from brevitas.nn.quant_linear import QuantLinear
from brevitas.quant.scaled_int import (
    Int8ActPerTensorFloat,
    Int8WeightPerTensorFloat,
    Int32Bias,
    Uint8ActPerTensorFloat,
)
from brevitas.quant_tensor import QuantTensor

__all__ = ["QuantMultiheadAttention"]


class QuantMultiheadAttention(QuantAttentionMixin, nn.Module):
    """``torch.nn.MultiheadAttention`` with quantizers on its projections and on each product.

    For each head, with ``q, k, v`` the projected inputs and ``d = embed_dim / num_heads``::

        weights = quant(softmax(quant(quant(q / sqrt(d)) @ quant(k.T)) + mask))
        output = out_proj(concatenate(weights @ quant(v)))

    A state dict of ``torch.nn.MultiheadAttention`` loads: ``in_proj_weight`` goes to
    ``in_proj.weight``, or a third each to ``q_proj.weight``, ``k_proj.weight``, ``v_proj.weight``,
    and the biases alike. Without quantizers the layer computes what that one does; where the
    weights are not asked for either, by ``torch.nn.functional.scaled_dot_product_attention``. A
    query whose keys all are masked gets weights 0, where that one gives NaN or 0.

    Args:
        embed_dim: features of the queries and of the output; divisible by ``num_heads``.
        num_heads: number of heads.
        dropout: probability with which a weight is dropped in training.
        bias: learn biases of the projections, which start at 0.
        add_bias_kv: learn one more key and value, the same for all sequences.
        add_zero_attn: add one more key and value, which are 0.
        kdim: features of the keys; ``embed_dim`` by default.
        vdim: features of the values; ``embed_dim`` by default.
        packed_in_proj: project queries, keys and values by one layer ``in_proj``, with one scale
            for its input. Meant for self-attention: other inputs are put one behind the other and
            all projected to all three. False, or another ``kdim`` or ``vdim``, gives layers
            ``q_proj``, ``k_proj``, ``v_proj``.
        in_proj_input_quant: quantizer of the inputs of the input projections.
        in_proj_weight_quant: quantizer of their weights.
        in_proj_bias_quant: quantizer of their biases.
        softmax_input_quant: quantizer of the scores. It sees them before a mask takes keys away.
        attn_output_weights_quant: quantizer of the weights, after dropout.
        q_scaled_quant: quantizer of the scaled queries, ``[N * num_heads, L, d]``.
        k_transposed_quant: quantizer of the transposed keys, ``[N * num_heads, d, S]``.
        v_quant: quantizer of the values, ``[N * num_heads, S, d]``.
        out_proj_input_quant: quantizer of the input of the output projection. None passes it the
            integers of the product of weights and values, where both are quantized.
        out_proj_weight_quant: quantizer of its weight.
        out_proj_bias_quant: quantizer of its bias.
        out_proj_output_quant: quantizer of the output.
        batch_first: inputs and output are ``[batch, sequence, features]``.
        return_quant_tensor: return the output with scale, zero point and bit width.
        device: device of parameters and quantizers.
        dtype: dtype of parameters and quantizers.
        **kwargs: declarations of the quantizers by prefix, e.g. ``in_proj_weight_bit_width=4``,
            ``v_bit_width=4``.

    Raises:
        ValueError: for an ``embed_dim`` that is no multiple of ``num_heads``.

    Example:
        >>> attention = QuantMultiheadAttention(8, 2, batch_first=True, q_scaled_bit_width=4)
        >>> x = torch.randn(3, 5, 8)
        >>> output, weights = attention(x, x, x)
        >>> output.shape, weights.shape
        (torch.Size([3, 5, 8]), torch.Size([3, 5, 5]))

    Reference: Vaswani et al., "Attention Is All You Need", 2017.
    """

    in_proj: QuantLinear | None
    q_proj: QuantLinear | None
    k_proj: QuantLinear | None
    v_proj: QuantLinear | None
    bias_k: nn.Parameter | None
    bias_v: nn.Parameter | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        packed_in_proj: bool = True,
        in_proj_input_quant: ActQuantType | None = Int8ActPerTensorFloat,
        in_proj_weight_quant: WeightQuantType | None = Int8WeightPerTensorFloat,
        in_proj_bias_quant: BiasQuantType | None = Int32Bias,
        softmax_input_quant: ActQuantType | None = None,
        attn_output_weights_quant: ActQuantType | None = Uint8ActPerTensorFloat,
        q_scaled_quant: ActQuantType | None = Int8ActPerTensorFloat,
        k_transposed_quant: ActQuantType | None = Int8ActPerTensorFloat,
        v_quant: ActQuantType | None = Int8ActPerTensorFloat,
        out_proj_input_quant: ActQuantType | None = Int8ActPerTensorFloat,
        out_proj_weight_quant: WeightQuantType | None = Int8WeightPerTensorFloat,
        out_proj_bias_quant: BiasQuantType | None = Int32Bias,
        out_proj_output_quant: ActQuantType | None = None,
        batch_first: bool = False,
        return_quant_tensor: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self._set_sizes(embed_dim, num_heads, kdim, vdim)
        self.dropout = dropout
        self.batch_first = batch_first
        self.add_zero_attn = add_zero_attn
        # Read by the encoder layer of PyTorch, under this name.
        self._qkv_same_embed_dim = packed_in_proj and self.kdim == self.vdim == embed_dim
        report = KeywordReport(self, kwargs)
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        in_quant = (in_proj_weight_quant, in_proj_bias_quant, in_proj_input_quant)
        self._attach_in_proj(report, bias, *in_quant, **factory)
        out_quant = (out_proj_weight_quant, out_proj_bias_quant, out_proj_input_quant)
        with report.part("out_proj_") as keywords:
            arguments = (*out_quant, out_proj_output_quant, return_quant_tensor)
            self.out_proj = QuantLinear(
                embed_dim, embed_dim, bias, *arguments, **factory, **keywords
            )
        for name in ("bias_k", "bias_v"):
            row = nn.Parameter(torch.empty(1, 1, embed_dim, **factory)) if add_bias_kv else None
            self.register_parameter(name, row)
        quantizers = {
            "softmax_input_quant": softmax_input_quant,
            "attn_output_weights_quant": attn_output_weights_quant,
            "q_scaled_quant": q_scaled_quant,
            "k_transposed_quant": k_transposed_quant,
            "v_quant": v_quant,
        }
        self.attach_attention_quant(quantizers, report, factory, out_proj_input_quant is None)
        self._start_projections()
        report.warn_unused()

    def _set_sizes(
        self, embed_dim: int, num_heads: int, kdim: int | None, vdim: int | None
    ) -> None:
        if embed_dim <= 0 or num_heads <= 0 or embed_dim % num_heads:
            raise ValueError(
                f"embed_dim={embed_dim} with num_heads={num_heads}: expected positive numbers and "
                "an embed_dim that is a multiple of num_heads. Layer: " + type(self).__name__
            )
        self.embed_dim = embed_dim
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads

    def _attach_in_proj(self, report: KeywordReport, *arguments: Any, **factory: Any) -> None:
        """Build ``in_proj``, or one layer each for queries, keys and values; the others are None.

        Their order is that of ``parameters()``, by which optimizers store their state.
        """
        sizes: dict[str, tuple[int, int]] = {"in_proj": (self.embed_dim, 3 * self.embed_dim)}
        if not self._qkv_same_embed_dim:
            inputs = zip(PROJECTIONS, (self.embed_dim, self.kdim, self.vdim), strict=True)
            sizes = {name: (size, self.embed_dim) for name, size in inputs}
        for name in ("in_proj", *PROJECTIONS):
            layer = None
            if name in sizes:
                with report.part("in_proj_") as keywords:
                    layer = QuantLinear(*sizes[name], *arguments, **factory, **keywords)
            setattr(self, name, layer)

    def _projections(self) -> list[QuantLinear]:
        layers = (getattr(self, name) for name in ("in_proj", *PROJECTIONS))
        return [layer for layer in layers if layer is not None]

    def _start_projections(self) -> None:
        for layer in self._projections():
            nn.init.xavier_uniform_(layer.weight)
        for row in (self.bias_k, self.bias_v):
            if row is not None:
                nn.init.xavier_normal_(row)
        for layer in (*self._projections(), self.out_proj):
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def reset_parameters(self) -> None:
        """Draw all parameters anew, as on construction."""
        for layer in (*self._projections(), self.out_proj):
            layer.reset_parameters()
        self._start_projections()

    @property
    def in_proj_bias(self) -> None:
        """None: the encoder layer of PyTorch then calls the layer.

        It would otherwise run a kernel of its own on the float weights, past every quantizer.
        """
        return None

    def extra_repr(self) -> str:
        """Say how large the layer is, for ``print`` and for messages."""
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        rename_float_state(state_dict, prefix, self.in_proj is not None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _check_shapes(
        self,
        query: Tensor | QuantTensor,
        key: Tensor | QuantTensor,
        value: Tensor | QuantTensor,
        key_padding_mask: Tensor | None,
        attn_mask: Tensor | None,
        num_heads: int,
        batch_first: bool,
    ) -> HeadLayout:
        tensors = {"query": query, "key": key, "value": value}
        features = {"query": self.embed_dim, "key": self.kdim, "value": self.vdim}
        layer = f"{type(self).__name__}({self.extra_repr()})"
        masks = (key_padding_mask, attn_mask)
        return check_shapes(tensors, features, *masks, num_heads, batch_first, layer)

    def mha_shape_check(
        self,
        query: Tensor | QuantTensor,
        key: Tensor | QuantTensor,
        value: Tensor | QuantTensor,
        key_padding_mask: Tensor | None,
        attn_mask: Tensor | None,
        num_heads: int,
    ) -> bool:
        """Check the inputs of ``multi_head_attention``, whose batch is in dimension 1.

        Args:
            query: input of the queries.
            key: input of the keys.
            value: input of the values.
            key_padding_mask: mask of padded keys, or None.
            attn_mask: mask of pairs of query and key, or None.
            num_heads: number of heads.

        Returns:
            Whether the inputs have a batch dimension.

        Raises:
            ValueError: on shapes that do not fit.
            TypeError: on a mask that is neither boolean nor floating-point.
        """
        masks = (key_padding_mask, attn_mask)
        return self._check_shapes(query, key, value, *masks, num_heads, False).is_batched

    def multi_head_attention(
        self,
        query: Tensor | QuantTensor,
        key: Tensor | QuantTensor,
        value: Tensor | QuantTensor,
        embed_dim_to_check: int,
        num_heads: int,
        bias_k: Tensor | None,
        bias_v: Tensor | None,
        add_zero_attn: bool,
        dropout_p: float,
        training: bool = True,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        use_separate_proj_weight: bool = False,
        static_k: Tensor | None = None,
        static_v: Tensor | None = None,
        average_attn_weights: bool = True,
    ) -> tuple[Tensor | QuantTensor, Tensor | None]:
        """Compute attention with settings given anew, on inputs ``[sequence, batch, features]``.

        Args:
            query: input of the queries, ``[L, N, embed_dim]`` or ``[L, embed_dim]``.
            key: input of the keys, ``[S, N, kdim]`` or ``[S, kdim]``.
            value: input of the values, ``[S, N, vdim]`` or ``[S, vdim]``.
            embed_dim_to_check: the ``embed_dim`` that the caller expects.
            num_heads: number of heads.
            bias_k: one more key, ``[1, 1, embed_dim]``, or None.
            bias_v: one more value, likewise.
            add_zero_attn: whether to add one more key and value, which are 0.
            dropout_p: probability with which a weight is dropped in training.
            training: whether to drop weights.
            key_padding_mask: see ``forward``.
            need_weights: see ``forward``.
            attn_mask: see ``forward``.
            use_separate_proj_weight: kept for compatibility; the layer knows its projections.
            static_k: projected keys to use in place of ``key``, ``[N * num_heads, S, d]``.
            static_v: projected values to use in place of ``value``, likewise.
            average_attn_weights: see ``forward``.

        Returns:
            Output and weights, as ``forward``.
        """
        if embed_dim_to_check != self.embed_dim or self.embed_dim % num_heads:
            raise ValueError(
                f"embed_dim_to_check={embed_dim_to_check} with num_heads={num_heads}: expected "
                f"{self.embed_dim} and one of its divisors. Layer: {type(self).__name__}"
            )
        masks = (key_padding_mask, attn_mask)
        call = AttentionCall(
            self._check_shapes(query, key, value, *masks, num_heads, False),
            *masks,
            need_weights,
            average_attn_weights,
            dropout_p if training else 0.0,
            bias_k=bias_k,
            bias_v=bias_v,
            add_zero_attn=add_zero_attn,
            static_k=static_k,
            static_v=static_v,
        )
        return self._run(query, key, value, call)

    def forward(
        self,
        query: Tensor | QuantTensor,
        key: Tensor | QuantTensor,
        value: Tensor | QuantTensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor | QuantTensor, Tensor | None]:
        """Attend with each query to the keys, and return the weighted values, projected.

        Args:
            query: input of the queries, ``[L, N, embed_dim]``, with ``batch_first``
                ``[N, L, embed_dim]``, without a batch ``[L, embed_dim]``.
            key: input of the keys, ``S`` in place of ``L``, ``kdim`` features.
            value: input of the values, ``vdim`` features.
            key_padding_mask: keys to leave out, ``[N, S]``: boolean, where True leaves out, or
                floating-point, which is added to the scores.
            need_weights: return the weights, too.
            attn_mask: pairs to leave out, ``[L, S]`` or ``[N * num_heads, L, S]``, likewise.
            average_attn_weights: average the returned weights over the heads.
            is_causal: ``attn_mask`` is the causal one, or is to be made so where it is None.

        Returns:
            The output, shaped as ``query``; a quant tensor where the layer returns those. The
            weights as they enter the product, quantized values, ``[N, L, S]`` or without average
            ``[N, num_heads, L, S]``; None where they are not asked for.

        Raises:
            ValueError: on shapes that do not fit.
            TypeError: on a mask that is neither boolean nor floating-point.
        """
        masks = (key_padding_mask, attn_mask)
        call = AttentionCall(
            self._check_shapes(query, key, value, *masks, self.num_heads, self.batch_first),
            *masks,
            need_weights,
            average_attn_weights,
            self.dropout if self.training else 0.0,
            is_causal,
            self.bias_k,
            self.bias_v,
            self.add_zero_attn,
        )
        return self._run(query, key, value, call)

    def _run(
        self, query: Any, key: Any, value: Any, call: AttentionCall
    ) -> tuple[Tensor | QuantTensor, Tensor | None]:
        if self.in_proj is not None:
            inputs = project_packed(self.in_proj, query, key, value, call.layout.sequence_dim)
        else:
            pairs = zip(self._projections(), (query, key, value), strict=True)
            inputs = tuple(layer(x) for layer, x in pairs)
        output, weights = attend_heads(self, call, inputs)
        return self.out_proj(output), weights
