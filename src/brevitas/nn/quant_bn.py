"""Batch normalizations in evaluation, as a quantized factor and offset. Layer: nn (L6)."""

from __future__ import annotations

from typing import Any

import torch

from brevitas.nn.quant_layer import ActQuantType, BiasQuantType, WeightQuantType
from brevitas.nn.quant_scale_bias import QuantScaleBias
from brevitas.nn.utils import mul_add_from_bn
from brevitas.quant.scaled_int import Int8WeightPerTensorFloat

__all__ = ["BatchNorm1dToQuantScaleBias", "BatchNorm2dToQuantScaleBias"]


class BatchNormToQuantScaleBias(QuantScaleBias):
    """Takes the checkpoint of a batch normalization; computes with one factor and one offset.

    Arguments and equation are those of ``BatchNorm2dToQuantScaleBias``.
    """

    #: Dimensions of an input behind batch and channels.
    spatial_dims: int

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        weight_quant: WeightQuantType | None = Int8WeightPerTensorFloat,
        bias_quant: BiasQuantType | None = None,
        input_quant: ActQuantType | None = None,
        output_quant: ActQuantType | None = None,
        return_quant_tensor: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        quantizers = (weight_quant, bias_quant, input_quant, output_quant)
        shape = (1, -1, *(1,) * self.spatial_dims)
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(
            num_features, True, *quantizers, shape, return_quant_tensor, **factory, **kwargs
        )
        self.eps = eps

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        names = ("running_mean", "running_var", "weight", "bias")
        mean, variance, weight, bias = (state_dict.get(prefix + name) for name in names)
        if mean is not None and variance is not None:
            factor, offset = mul_add_from_bn(mean, variance, self.eps, weight, bias)
            # The dict is the loader's own copy.
            state_dict.update({prefix + "weight": factor, prefix + "bias": offset})
            for name in ("running_mean", "running_var", "num_batches_tracked"):
                state_dict.pop(prefix + name, None)
        super()._load_from_state_dict(state_dict, prefix, *args)


class BatchNorm1dToQuantScaleBias(BatchNormToQuantScaleBias):
    """``torch.nn.BatchNorm1d`` in evaluation, quantized; input ``[N, C, L]``.

    Arguments as ``BatchNorm2dToQuantScaleBias``.

    Example:
        >>> BatchNorm1dToQuantScaleBias(3)(torch.randn(2, 3, 5)).shape
        torch.Size([2, 3, 5])
    """

    spatial_dims = 1


class BatchNorm2dToQuantScaleBias(BatchNormToQuantScaleBias):
    """``torch.nn.BatchNorm2d`` in evaluation, quantized; input ``[N, C, H, W]``.

    ``y = q(x) * q(weight) + q(bias)``. Loading the checkpoint of a batch normalization gives
    ``weight = gamma / sqrt(var + eps)`` and ``bias = beta - mean * weight``.

    Args:
        num_features: number of channels.
        eps: number added to the variance.
        weight_quant: quantizer of the factors; None leaves them in floating point.
        bias_quant: quantizer of the offsets.
        input_quant: quantizer of the input.
        output_quant: quantizer of the output.
        return_quant_tensor: return the output with scale, zero point and bit width.
        device: device of parameters and quantizers.
        dtype: dtype of parameters and quantizers.
        **kwargs: declarations of the quantizers by prefix, e.g. ``weight_bit_width=4``.

    Example:
        >>> layer = BatchNorm2dToQuantScaleBias(3, weight_quant=None)
        >>> layer.load_state_dict(torch.nn.BatchNorm2d(3).state_dict())
        <All keys matched successfully>

    Reference: Ioffe and Szegedy, "Batch Normalization", 2015.
    """

    spatial_dims = 2
