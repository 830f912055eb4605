"""Quantized layers: drop-in counterparts of ``torch.nn``. Layer: nn (L6)."""

from brevitas.nn.hadamard_classifier import HadamardClassifier
from brevitas.nn.quant_accumulator import ClampQuantAccumulator, TruncQuantAccumulator
from brevitas.nn.quant_activation import (
    QuantHardSwish,
    QuantHardTanh,
    QuantIdentity,
    QuantReLU,
    QuantSigmoid,
    QuantTanh,
)
from brevitas.nn.quant_avg_pool import TruncAdaptiveAvgPool2d, TruncAvgPool2d
from brevitas.nn.quant_bn import BatchNorm1dToQuantScaleBias, BatchNorm2dToQuantScaleBias
from brevitas.nn.quant_conv import QuantConv1d, QuantConv2d, QuantConv3d
from brevitas.nn.quant_convtranspose import (
    QuantConvTranspose1d,
    QuantConvTranspose2d,
    QuantConvTranspose3d,
)
from brevitas.nn.quant_eltwise import QuantCat, QuantEltwiseAdd
from brevitas.nn.quant_embedding import QuantEmbedding
from brevitas.nn.quant_linear import QuantLinear
from brevitas.nn.quant_mha import QuantMultiheadAttention
from brevitas.nn.quant_passthrough import QuantDropout, QuantMaxPool1d, QuantMaxPool2d
from brevitas.nn.quant_rnn import QuantLSTM, QuantRNN
from brevitas.nn.quant_scale_bias import QuantScaleBias, ScaleBias
from brevitas.nn.quant_sdpa import QuantScaledDotProductAttention, ScaledDotProductAttention
from brevitas.nn.quant_upsample import (
    QuantUpsample,
    QuantUpsamplingBilinear2d,
    QuantUpsamplingNearest2d,
)

# The names of earlier releases.
QuantAvgPool2d = TruncAvgPool2d
QuantAdaptiveAvgPool2d = TruncAdaptiveAvgPool2d

__all__ = [
    "BatchNorm1dToQuantScaleBias",
    "BatchNorm2dToQuantScaleBias",
    "ClampQuantAccumulator",
    "HadamardClassifier",
    "QuantAdaptiveAvgPool2d",
    "QuantAvgPool2d",
    "QuantCat",
    "QuantConv1d",
    "QuantConv2d",
    "QuantConv3d",
    "QuantConvTranspose1d",
    "QuantConvTranspose2d",
    "QuantConvTranspose3d",
    "QuantDropout",
    "QuantEltwiseAdd",
    "QuantEmbedding",
    "QuantHardSwish",
    "QuantHardTanh",
    "QuantIdentity",
    "QuantLSTM",
    "QuantLinear",
    "QuantMaxPool1d",
    "QuantMaxPool2d",
    "QuantMultiheadAttention",
    "QuantRNN",
    "QuantReLU",
    "QuantScaleBias",
    "QuantScaledDotProductAttention",
    "QuantSigmoid",
    "QuantTanh",
    "QuantUpsample",
    "QuantUpsamplingBilinear2d",
    "QuantUpsamplingNearest2d",
    "ScaleBias",
    "ScaledDotProductAttention",
    "TruncAdaptiveAvgPool2d",
    "TruncAvgPool2d",
    "TruncQuantAccumulator",
]
