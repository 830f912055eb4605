"""Activations of layers as minifloats."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import brevitas.nn as qnn
from brevitas.inject.enum import ScalingImplType
from brevitas.proxy.float_runtime_quant import (
    ActFloatQuantProxyFromInjector,
    DynamicActFloatQuantProxyFromInjector,
)
from brevitas.quant import Fp8e4m3Act, Fp8e4m3OCPActPerTensorFloat, Fp8e5m2OCPActPerTensorFloat
from brevitas.quant_tensor import FloatQuantTensor
from brevitas.utils.quant_utils import _CachedIOFloat


class Dynamic(Fp8e4m3OCPActPerTensorFloat):
    """A scale from the largest magnitude of each input."""

    proxy_class = DynamicActFloatQuantProxyFromInjector
    scaling_impl_type = ScalingImplType.STATS


def test_activation_learns_its_scale() -> None:
    act = qnn.QuantIdentity(
        Fp8e5m2OCPActPerTensorFloat, return_quant_tensor=True, collect_stats_steps=1
    )
    x = torch.randn(4, 5)
    y = act(x)
    assert type(y) is FloatQuantTensor and y.inf_values == ("00",)
    assert y.scale.item() == pytest.approx(x.abs().max().item() / 57344)
    assert type(act.act_quant) is ActFloatQuantProxyFromInjector
    assert act.act_quant.scale() == y.scale and act.act_quant.exponent_bias() == 15
    act.eval()
    torch.testing.assert_close(act(10 * x).value.abs().max(), x.abs().max())


@pytest.mark.parametrize("layer", [qnn.QuantReLU, qnn.QuantTanh, qnn.QuantSigmoid])
def test_activation_functions(layer: Any) -> None:
    x = torch.randn(20)
    act = layer(act_quant=Fp8e4m3Act, return_quant_tensor=True)
    function = act.act_quant.fused_activation_quant_proxy.activation_impl
    expected = function(x).to(torch.float8_e4m3fn).float()
    assert torch.equal(act(x).value, expected)


def test_a_minifloat_input_is_quantized_anew() -> None:
    first = qnn.QuantIdentity(Fp8e4m3Act, return_quant_tensor=True)(torch.randn(20))
    again = qnn.QuantIdentity(Fp8e4m3Act, return_quant_tensor=True)(first)
    assert torch.equal(first.value, again.value)
    disabled = qnn.QuantReLU(act_quant=None, return_quant_tensor=True)(first)
    assert type(disabled) is FloatQuantTensor and torch.equal(disabled.value, first.value.relu())


def test_a_kept_activation_says_its_format() -> None:
    act = qnn.QuantIdentity(Fp8e4m3Act).eval()
    act.act_quant.cache_inference_quant_act = True
    act(torch.ones(2))
    assert type(act.act_quant._cached_act) is _CachedIOFloat
    assert act.act_quant.mantissa_bit_width() == 3


def test_dynamic_activation() -> None:
    act = qnn.QuantIdentity(Dynamic, return_quant_tensor=True)
    for largest in (1.0, 30.0):
        y = act(torch.tensor([0.1, -largest]))
        assert y.scale.item() == pytest.approx(largest / 448)
    for name in ("scale", "zero_point"):
        with pytest.raises(RuntimeError, match="dynamic quantizer depends on its input"):
            getattr(act.act_quant, name)()
    assert act.act_quant.exponent_bit_width() == 4


def test_input_and_weight() -> None:
    layer = qnn.QuantLinear(5, 3, input_quant=Fp8e4m3Act, weight_quant=None, bias=False)
    x = torch.randn(2, 5)
    expected = torch.nn.functional.linear(x.to(torch.float8_e4m3fn).float(), layer.weight)
    assert torch.equal(layer(x), expected)
    layer.return_quant_tensor = True
    with pytest.raises(RuntimeError, match="not correctly configured"):
        layer(x)
