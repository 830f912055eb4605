"""Quantized layers: drop-in counterparts of ``torch.nn``. Layer: nn (L6)."""

from brevitas.nn.quant_accumulator import ClampQuantAccumulator, TruncQuantAccumulator
from brevitas.nn.quant_activation import (
    QuantHardTanh,
    QuantIdentity,
    QuantReLU,
    QuantSigmoid,
    QuantTanh,
)
from brevitas.nn.quant_avg_pool import TruncAdaptiveAvgPool2d, TruncAvgPool2d
from brevitas.nn.quant_conv import QuantConv1d, QuantConv2d, QuantConv3d
from brevitas.nn.quant_convtranspose import (
    QuantConvTranspose1d,
    QuantConvTranspose2d,
    QuantConvTranspose3d,
)
from brevitas.nn.quant_linear import QuantLinear
from brevitas.nn.quant_rnn import QuantLSTM, QuantRNN

__all__ = [
    "ClampQuantAccumulator",
    "QuantConv1d",
    "QuantConv2d",
    "QuantConv3d",
    "QuantConvTranspose1d",
    "QuantConvTranspose2d",
    "QuantConvTranspose3d",
    "QuantHardTanh",
    "QuantIdentity",
    "QuantLSTM",
    "QuantLinear",
    "QuantRNN",
    "QuantReLU",
    "QuantSigmoid",
    "QuantTanh",
    "TruncAdaptiveAvgPool2d",
    "TruncAvgPool2d",
    "TruncQuantAccumulator",
]
