"""Quantized tensors: a real value together with the integers behind it.

Layer: quant_tensor (L2).
"""

from __future__ import annotations

from brevitas.quant_tensor.base_quant_tensor import (
    TOLERANCE,
    FloatMixin,
    FloatQuantTensorBase,
    GroupwiseFloatQuantTensorBase,
    GroupwisIntQuantTensorBase,
    IntMixin,
    IntQuantTensorBase,
    QuantTensor,
    _unpack_quant_tensor,
    plain,
)
from brevitas.quant_tensor.float_quant_tensor import FloatQuantTensor
from brevitas.quant_tensor.float_torch_handler import FLOAT_QUANT_TENSOR_FN_HANDLER
from brevitas.quant_tensor.groupwise_float_quant_tensor import GroupwiseFloatQuantTensor
from brevitas.quant_tensor.groupwise_int_quant_tensor import GroupwiseIntQuantTensor
from brevitas.quant_tensor.int_quant_tensor import IntQuantTensor
from brevitas.quant_tensor.int_torch_handler import INT_QUANT_TENSOR_FN_HANDLER
from brevitas.quant_tensor.torch_handler import QUANT_TENSOR_FN_HANDLER

__all__ = [
    "FLOAT_QUANT_TENSOR_FN_HANDLER",
    "INT_QUANT_TENSOR_FN_HANDLER",
    "QUANT_TENSOR_FN_HANDLER",
    "TOLERANCE",
    "FloatMixin",
    "FloatQuantTensor",
    "FloatQuantTensorBase",
    "GroupwisIntQuantTensorBase",
    "GroupwiseFloatQuantTensor",
    "GroupwiseFloatQuantTensorBase",
    "GroupwiseIntQuantTensor",
    "IntMixin",
    "IntQuantTensor",
    "IntQuantTensorBase",
    "QuantTensor",
    "_unpack_quant_tensor",
    "plain",
]
