"""A lookup table with quantized rows. Layer: nn (L6)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brevitas.nn.mixin.base import KeywordReport, QuantLayerMixin
from brevitas.nn.mixin.parameter import QuantWeightMixin, WeightQuantType
from brevitas.quant.scaled_int import Int8WeightPerTensorFloat
from brevitas.quant_tensor import QuantTensor

__all__ = ["QuantEmbedding"]


class QuantEmbedding(QuantWeightMixin, QuantLayerMixin, nn.Embedding):
    """``torch.nn.Embedding`` with a quantized table: ``y = q(weight)[indices]``.

    Args:
        num_embeddings: number of rows.
        embedding_dim: size of each row.
        padding_idx: row that gets no gradient and starts as zero.
        max_norm: rows that are looked up are first scaled down to this norm, in place.
        norm_type: the p of that norm.
        scale_grad_by_freq: divide gradients by how often a row is looked up.
        sparse: let the gradient that reaches the quantizer be sparse; the weight's is dense
            unless it is not quantized.
        _weight: start values, ``[num_embeddings, embedding_dim]``.
        weight_quant: quantizer of the table; None leaves it in floating point.
        return_quant_tensor: return the rows with scale, zero point and bit width.
        device: device of the table and its quantizer.
        dtype: dtype of the table and its quantizer.
        _freeze: do not learn the table, as ``from_pretrained`` asks for.
        **kwargs: declarations of the quantizer, e.g. ``weight_bit_width=4``.

    Shapes:
        indices ``[...]``, output ``[..., embedding_dim]``.

    Example:
        >>> layer = QuantEmbedding(10, 4, weight_bit_width=4, return_quant_tensor=True)
        >>> y = layer(torch.tensor([[1, 2, 9]]))
        >>> y.shape, y.bit_width
        (torch.Size([1, 3, 4]), tensor(4.))
    """

    # Its input is indices, which have no scale.
    accept_quant_tensor = False

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Tensor | None = None,
        weight_quant: WeightQuantType | None = Int8WeightPerTensorFloat,
        return_quant_tensor: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        _freeze: bool = False,
        **kwargs: Any,
    ) -> None:
        nn.Embedding.__init__(
            self,
            num_embeddings,
            embedding_dim,
            padding_idx,
            max_norm,
            norm_type,
            scale_grad_by_freq,
            sparse,
            _weight,
            _freeze,
            device=device,
            dtype=dtype,
        )
        QuantLayerMixin.__init__(self, return_quant_tensor)
        report = KeywordReport(self, kwargs)
        self.attach_weight_quant(weight_quant, report)
        report.warn_unused()

    @property
    def output_channel_dim(self) -> int:
        """0: one scale for each row, where there is one per channel."""
        return 0

    @property
    def out_channels(self) -> int:
        """Number of rows."""
        return self.num_embeddings

    @property
    def channelwise_separable(self) -> bool:
        """True: a row is looked up as a whole."""
        return True

    def forward(self, inp: Tensor) -> Tensor | QuantTensor:
        """Return the rows of the quantized table at the given indices."""
        if self.max_norm is not None:
            with torch.no_grad():
                torch.embedding_renorm_(self.weight, inp, self.max_norm, self.norm_type)
        rows = F.embedding(
            inp,
            self.quant_weight(),  # pyright: ignore[reportArgumentType]
            self.padding_idx,
            scale_grad_by_freq=self.scale_grad_by_freq,
            sparse=self.sparse,
        )
        return self.pack_output(rows)
