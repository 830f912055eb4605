"""The quant tensor that the proxy makes; what all proxies of groups share is in test_groupwise."""

from __future__ import annotations

import torch

import brevitas.nn as qnn
from brevitas.proxy.groupwise_float_runtime_quant import GroupwiseActFloatQuantProxyFromInjector
from brevitas.quant import MXFloat8e4m3Act
from brevitas.quant_tensor import GroupwiseFloatQuantTensor


def test_the_quant_tensor_of_an_activation() -> None:
    for training in (True, False):
        layer = qnn.QuantIdentity(MXFloat8e4m3Act, group_dim=-2, return_quant_tensor=True).train(
            training
        )
        assert type(layer.act_quant) is GroupwiseActFloatQuantProxyFromInjector
        y = layer(torch.randn(2, 40, 3))
        assert type(y) is GroupwiseFloatQuantTensor and y.is_valid
        assert (y.signed, y.training) == (True, training)
        assert (y.group_size, y.group_dim, y.dequant_shape) == (32, -2, (2, 40, 3))
