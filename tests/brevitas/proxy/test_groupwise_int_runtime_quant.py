"""The quant tensor that the proxy makes; what all proxies of groups share is in test_groupwise."""

from __future__ import annotations

import torch

import brevitas.nn as qnn
from brevitas.proxy.groupwise_int_runtime_quant import GroupwiseActQuantProxyFromInjector
from brevitas.quant import MXInt8Act
from brevitas.quant_tensor import GroupwiseIntQuantTensor


def test_the_quant_tensor_of_an_activation() -> None:
    for training in (True, False):
        layer = qnn.QuantIdentity(MXInt8Act, group_dim=-2, return_quant_tensor=True).train(training)
        assert type(layer.act_quant) is GroupwiseActQuantProxyFromInjector
        y = layer(torch.randn(2, 40, 3))
        assert type(y) is GroupwiseIntQuantTensor and y.is_valid
        assert (y.signed, y.training) == (True, training)
        assert (y.group_size, y.group_dim, y.dequant_shape) == (32, -2, (2, 40, 3))
