"""From enums to groups: shapes, defaults, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import brevitas.nn as qnn
from brevitas.core.function_wrapper.misc import Identity
from brevitas.core.function_wrapper.shape import (
    DynamicOverSubChannelBlockView,
    OverSubChannelBlockView,
)
from brevitas.core.scaling import ConstScaling, RuntimeDynamicGroupStatsScaling
from brevitas.inject import DependencyError
from brevitas.proxy.groupwise_float_parameter_quant import (
    GroupwiseWeightFloatQuantProxyFromInjector,
)
from brevitas.proxy.groupwise_float_runtime_quant import GroupwiseActFloatQuantProxyFromInjector
from brevitas.proxy.groupwise_int_parameter_quant import GroupwiseWeightQuantProxyFromInjector
from brevitas.proxy.groupwise_int_runtime_quant import GroupwiseActQuantProxyFromInjector
from brevitas.quant import (
    Fp8e4m3OCPActPerTensorFloat,
    Fp8e4m3OCPWeightPerTensorFloat,
    Int8ActPerTensorFloat,
    Int8WeightPerTensorFloat,
    MXInt8Act,
    MXInt8Weight,
)

GROUPS = {"scaling_per_output_type": "group", "group_size": 4}


def weight_keywords(**declared: Any) -> dict[str, Any]:
    return {f"weight_{name}": value for name, value in declared.items()}


@pytest.mark.parametrize(
    ("quantizer", "proxy"),
    [
        (Int8WeightPerTensorFloat, GroupwiseWeightQuantProxyFromInjector),
        (Fp8e4m3OCPWeightPerTensorFloat, GroupwiseWeightFloatQuantProxyFromInjector),
    ],
)
def test_keywords_bring_a_weight_into_groups(quantizer: Any, proxy: type) -> None:
    layer = qnn.QuantLinear(10, 3, weight_quant=quantizer, **weight_keywords(**GROUPS))
    assert type(layer.weight_quant) is proxy
    assert type(layer.weight_quant.input_view_impl) is OverSubChannelBlockView
    assert layer.quant_weight().scale_.shape == (3, 3, 1)


@pytest.mark.parametrize(
    ("quantizer", "proxy"),
    [
        (Int8ActPerTensorFloat, GroupwiseActQuantProxyFromInjector),
        (Fp8e4m3OCPActPerTensorFloat, GroupwiseActFloatQuantProxyFromInjector),
    ],
)
def test_keywords_bring_an_activation_into_groups(quantizer: Any, proxy: type) -> None:
    declared = {**GROUPS, "scaling_impl_type": "stats", "scaling_stats_op": "max", "group_dim": -1}
    layer = qnn.QuantIdentity(quantizer, **declared, return_quant_tensor=True)
    assert type(layer.act_quant) is proxy
    tensor_quant = layer.act_quant.fused_activation_quant_proxy.tensor_quant
    assert type(tensor_quant.scaling_impl) is RuntimeDynamicGroupStatsScaling
    assert type(layer.act_quant.input_view_impl) is DynamicOverSubChannelBlockView
    assert layer(torch.randn(2, 10)).scale_.shape == (2, 3, 1)


def test_without_groups_there_is_no_view() -> None:
    assert type(qnn.QuantLinear(4, 2).weight_quant.input_view_impl) is Identity
    assert type(qnn.QuantReLU().act_quant.input_view_impl) is Identity


def test_a_constant_scale_serves_all_groups() -> None:
    declared = {**GROUPS, "scaling_impl_type": "const", "scaling_const": 2.0, "group_dim": -1}
    layer = qnn.QuantIdentity(Int8ActPerTensorFloat, **declared, return_quant_tensor=True)
    tensor_quant = layer.act_quant.fused_activation_quant_proxy.tensor_quant
    assert type(tensor_quant.scaling_impl) is ConstScaling
    x = torch.randn(2, 10)
    other = qnn.QuantIdentity(scaling_impl_type="const", scaling_const=2.0)
    assert torch.equal(layer(x).value, other(x)) and layer(x).scale_.shape == ()


@pytest.mark.parametrize("learned", ["parameter", "parameter_from_stats"])
def test_a_learned_scale_per_group_of_a_weight(learned: str) -> None:
    declared = {**GROUPS, "scaling_impl_type": learned, "scaling_init": 0.5}
    layer = qnn.QuantLinear(10, 3, **weight_keywords(**declared))
    layer(torch.randn(2, 10)).sum().backward()
    scale = layer.weight_quant.tensor_quant.scaling_impl.value
    assert scale.shape == (3, 3, 1) and scale.grad.shape == (3, 3, 1)
    if learned == "parameter_from_stats":
        groups = nn.functional.pad(layer.weight.detach(), [0, 2]).reshape(3, 3, 4)
        torch.testing.assert_close(scale.data, groups.abs().amax(-1, keepdim=True))


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "4"])
def test_sizes_that_are_none(size: Any) -> None:
    with pytest.raises(ValueError, match=r"weight_group_size=.*: expected an int >= 1. Layer"):
        qnn.QuantLinear(8, 4, weight_quant=MXInt8Weight, weight_group_size=size)
    with pytest.raises(ValueError, match=r"group_size=.*: expected an int >= 1. Layer"):
        qnn.QuantIdentity(MXInt8Act, group_size=size, group_dim=1)


@pytest.mark.parametrize("dim", [2, -3, 1.5, True, "x"])
def test_dimensions_that_a_weight_does_not_have(dim: Any) -> None:
    accepted = r"of the tensor of shape \(4, 8\), from -2 to 1" if type(dim) is int else "an int"
    with pytest.raises(ValueError, match=rf"weight_group_dim=.*expected.*{accepted}.* Layer"):
        qnn.QuantLinear(8, 4, weight_quant=MXInt8Weight, weight_group_dim=dim)


def test_dimensions_that_an_activation_does_not_have() -> None:
    for dim in (1.5, "x", True):
        with pytest.raises(ValueError, match=r"group_dim=.*expected an int, a dimension. Layer"):
            qnn.QuantIdentity(MXInt8Act, group_dim=dim)
    for dim in (2, -3):
        with pytest.raises(ValueError, match=r"group_dim=.*shape \(2, 3\), from -2 to 1"):
            qnn.QuantIdentity(MXInt8Act, group_dim=dim)(torch.randn(2, 3))


def test_what_is_missing_is_named() -> None:
    with pytest.raises(DependencyError, match=r"group_size is missing: .*\n.*weight_\.\.\."):
        qnn.QuantLinear(8, 4, weight_scaling_per_output_type="group")
    with pytest.raises(DependencyError, match=r"group_dim is missing: .*\nLayer: QuantReLU"):
        qnn.QuantReLU(MXInt8Act)


def test_statistics_and_scales_that_groups_do_not_have() -> None:
    with pytest.raises(DependencyError, match="MAX_AVE with a scale per group"):
        qnn.QuantLinear(8, 4, weight_quant=MXInt8Weight, weight_scaling_stats_op="max_ave")
    with pytest.raises(DependencyError, match="scaling_impl_type=.*expected one of CONST, STATS"):
        qnn.QuantIdentity(Int8ActPerTensorFloat, **GROUPS, group_dim=-1)


def test_a_misspelled_keyword_is_reported() -> None:
    with pytest.warns(UserWarning, match="Did you mean 'weight_group_size'"):
        qnn.QuantLinear(8, 4, weight_quant=MXInt8Weight, weight_groupsize=4)
    with pytest.warns(UserWarning, match="weight_group_size=4 is read by none"):
        qnn.QuantLinear(8, 4, weight_group_size=4)


def test_weights_of_one_shape_share_their_scales() -> None:
    first = qnn.QuantLinear(10, 3, weight_quant=MXInt8Weight, weight_group_size=4)
    second = qnn.QuantLinear(10, 3, weight_quant=first.weight_quant)
    second.weight.data *= 8
    both = torch.maximum(first.weight.detach().abs(), second.weight.detach().abs())
    groups = nn.functional.pad(both, [0, 2]).reshape(3, 3, 4)
    expected = 2.0 ** groups.amax(-1, keepdim=True).log2().floor() / 128
    for layer in (first, second):
        assert torch.equal(layer.quant_weight().scale_, expected)
    with pytest.raises(DependencyError, match=r"shared by weights of shapes .*give each layer"):
        qnn.QuantLinear(8, 3, weight_quant=first.weight_quant)
    assert torch.equal(first.quant_weight().scale_, expected)
