"""Folding of batch normalizations into float and quantized layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import brevitas.nn as qnn
from brevitas.inject.enum import RestrictValueType, ScalingImplType
from brevitas.nn.utils import merge_bn, mul_add_from_bn
from brevitas.quant import (
    Int8WeightPerChannelFixedPoint,
    Int8WeightPerChannelFloat,
    ShiftedUint8WeightPerChannelFloat,
)


def batch_norm(dims, channels, affine=True):
    torch.manual_seed(0)
    bn = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1](channels, affine=affine).eval()
    bn.running_mean.normal_()
    bn.running_var.uniform_(0.5, 2.0)
    if affine:
        nn.init.normal_(bn.weight)
        nn.init.normal_(bn.bias)
    return bn


@pytest.mark.parametrize("affine", [True, False])
def test_affine_form(affine):
    bn = batch_norm(1, 4, affine)
    factor, offset = mul_add_from_bn(bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias)
    x = torch.randn(5, 4)
    torch.testing.assert_close(x * factor + offset, bn(x))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("transposed", [True, False])
def test_merge(dims, bias, groups, transposed):
    torch.manual_seed(0)
    name = f"Conv{'Transpose' if transposed else ''}{dims}d"
    layer = getattr(nn, name)(4, 6, 3, bias=bias, groups=groups)
    bn = batch_norm(dims, 6)
    x = torch.randn(2, 4, *[4] * dims)
    expected = bn(layer(x))
    merge_bn(layer, bn, output_channel_dim=1 if transposed else 0)
    # Sums of up to 4 * 27 float32 products of either order.
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=2e-5)


def test_merge_needs_statistics():
    with pytest.raises(ValueError, match="expected running statistics"):
        merge_bn(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))


LEARNED = {"weight_scaling_impl_type": ScalingImplType.PARAMETER_FROM_STATS}
LOGARITHM = {**LEARNED, "weight_restrict_scaling_type": RestrictValueType.LOG_FP}
LAYERS = {
    "linear": lambda **declared: qnn.QuantLinear(4, 6, **declared),
    "conv": lambda **declared: qnn.QuantConv2d(4, 6, 3, groups=2, bias=False, **declared),
    "transposed": lambda **declared: qnn.QuantConvTranspose2d(4, 6, 3, **declared),
}


def built(name, **declared):
    torch.manual_seed(0)
    layer = LAYERS[name](**declared).eval()
    is_linear = isinstance(layer, nn.Linear)
    x = torch.randn(3, 4) if is_linear else torch.randn(2, 4, 5, 5)
    return layer, batch_norm(1 if is_linear else 2, 6), x


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("declared", [{}, LEARNED, LOGARITHM], ids=["statistic", "learned", "log"])
@pytest.mark.parametrize("bits", [8, 3])
@pytest.mark.parametrize(
    "weight_quant", [Int8WeightPerChannelFloat, ShiftedUint8WeightPerChannelFloat]
)
def test_scales_per_channel_absorb_the_factors(name, declared, bits, weight_quant):
    quantizer = {"weight_quant": weight_quant, "weight_bit_width": bits}
    layer, bn, x = built(name, **quantizer, **declared)
    weight, expected = layer.quant_weight(), bn(layer(x))
    layer.merge_bn_in(bn)
    merged = layer.quant_weight()
    # The integers stay, seen from their zero points, but for the sign of the factor.
    before, after = (w.int().long() - w.zero_point for w in (weight, merged))
    assert torch.equal(after.abs(), before.abs())
    # One multiplication more or less: a few roundings of each product.
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_a_channel_of_factor_zero():
    layer, bn, x = built("conv", weight_quant=Int8WeightPerChannelFloat, **LEARNED)
    with torch.no_grad():
        bn.weight[2] = 0.0
    layer.quant_weight()
    expected = bn(layer(x))
    layer.merge_bn_in(bn)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    assert bool(layer.quant_weight().scale.isfinite().all())


@pytest.mark.parametrize(
    "weight_quant",
    [None, Int8WeightPerChannelFixedPoint],
    ids=["per tensor", "powers of two"],
)
def test_a_change_of_the_integers_is_told(weight_quant):
    declared = {} if weight_quant is None else {"weight_quant": weight_quant}
    layer, bn, x = built("conv", **declared)
    factor, _ = mul_add_from_bn(bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias)
    expected = layer.quant_weight().value * factor.reshape(-1, 1, 1, 1)
    with pytest.warns(UserWarning, match=r"merge_bn: the quantized weight of QuantConv2d") as told:
        layer.merge_bn_in(bn)
    merged = layer.quant_weight()
    steps = ((merged.value - expected) / merged.scale).abs().max().item()
    assert f"up to {steps:.2f} of its integer steps" in str(told[0].message)
    assert told[0].filename == __file__


def test_a_shared_scale_is_left_alone():
    first, bn, _ = built("linear", weight_quant=Int8WeightPerChannelFloat, **LEARNED)
    second = qnn.QuantLinear(4, 6, weight_quant=first.weight_quant)
    before = second.quant_weight().value.clone()
    with pytest.warns(UserWarning, match="merge_bn"):
        first.merge_bn_in(bn)
    assert torch.equal(second.quant_weight().value, before)


def test_float_and_disabled_weights_are_not_reported():
    layer, bn, x = built("conv")
    layer.weight_quant.disable_quant = True
    expected = bn(layer(x))
    layer.merge_bn_in(bn)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
