"""Quantized layers: drop-in counterparts of ``torch.nn``. Layer: nn (L6)."""

from brevitas.nn.quant_activation import (
    QuantHardTanh,
    QuantIdentity,
    QuantReLU,
    QuantSigmoid,
    QuantTanh,
)
from brevitas.nn.quant_conv import QuantConv1d, QuantConv2d, QuantConv3d
from brevitas.nn.quant_convtranspose import (
    QuantConvTranspose1d,
    QuantConvTranspose2d,
    QuantConvTranspose3d,
)
from brevitas.nn.quant_linear import QuantLinear

__all__ = [
    "QuantConv1d",
    "QuantConv2d",
    "QuantConv3d",
    "QuantConvTranspose1d",
    "QuantConvTranspose2d",
    "QuantConvTranspose3d",
    "QuantHardTanh",
    "QuantIdentity",
    "QuantLinear",
    "QuantReLU",
    "QuantSigmoid",
    "QuantTanh",
]
