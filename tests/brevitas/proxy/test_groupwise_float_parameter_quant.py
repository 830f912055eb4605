"""The quant tensor that the proxy makes; what all proxies of groups share is in test_groupwise."""

from __future__ import annotations

import torch

import brevitas.nn as qnn
from brevitas.proxy.groupwise_float_parameter_quant import (
    GroupwiseWeightFloatQuantProxyFromInjector,
)
from brevitas.quant import MXFloat8e4m3Weight
from brevitas.quant_tensor import GroupwiseFloatQuantTensor


def test_the_quant_tensor_of_a_weight() -> None:
    for training in (True, False):
        layer = qnn.QuantLinear(70, 4, weight_quant=MXFloat8e4m3Weight).train(training)
        assert type(layer.weight_quant) is GroupwiseWeightFloatQuantProxyFromInjector
        weight = layer.quant_weight()
        assert type(weight) is GroupwiseFloatQuantTensor and weight.is_valid
        assert (weight.signed, weight.training) == (True, training)
        assert (weight.group_size, weight.group_dim, weight.dequant_shape) == (32, 1, (4, 70))
        assert torch.equal(layer(torch.eye(70)), weight.value.t() + layer.bias)
