"""What proxies of groups share: views, what is kept, what cannot be read."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import brevitas.nn as qnn
from brevitas import config
from brevitas.export.inference import quant_inference_mode
from brevitas.quant import (
    MXFloat8e4m3Act,
    MXFloat8e4m3Weight,
    MXInt8Act,
    MXInt8Weight,
    ShiftedMXUInt8Weight,
)
from brevitas.utils.quant_utils import _CachedIOGroupwiseFloat, _CachedIOGroupwiseInt

WEIGHTS = [MXInt8Weight, ShiftedMXUInt8Weight, MXFloat8e4m3Weight]
ACTS = [MXInt8Act, MXFloat8e4m3Act]
every_weight = pytest.mark.parametrize("quantizer", WEIGHTS)
every_act = pytest.mark.parametrize("quantizer", ACTS)


def linear(quantizer: Any, **further: Any) -> Any:
    torch.manual_seed(0)
    return qnn.QuantLinear(10, 3, weight_quant=quantizer, weight_group_size=4, **further)


def identity(quantizer: Any, **further: Any) -> Any:
    declared = {"group_dim": 1, "group_size": 4, "return_quant_tensor": True, **further}
    return qnn.QuantIdentity(quantizer, **declared)


@every_weight
def test_fields_in_groups_and_in_the_shape_of_the_weight(quantizer: Any) -> None:
    proxy = linear(quantizer).weight_quant
    assert (proxy.is_groupwise, proxy.group_size, proxy.group_dim) == (True, 4, 1)
    assert proxy.scale_().shape == (3, 3, 1) and proxy.scale().shape == (3, 10)
    groups = proxy.scale_().expand(3, 3, 4).flatten(1)[:, :10]
    assert torch.equal(proxy.scale(), groups)
    shifted = quantizer is ShiftedMXUInt8Weight
    assert proxy.zero_point_().shape == ((3, 3, 1) if shifted else ())
    assert proxy.bit_width() == 8


@every_weight
def test_views(quantizer: Any) -> None:
    layer = linear(quantizer)
    proxy = layer.weight_quant
    filled = nn.functional.pad(layer.weight, [0, 2])
    assert torch.equal(proxy.apply_input_view(layer.weight), filled)
    assert torch.equal(proxy.as_quantized(layer.weight), filled.reshape(3, 3, 4))
    assert torch.equal(proxy.quantized_value(filled.reshape(3, 3, 4), layer.weight), layer.weight)


@every_weight
def test_a_plain_tensor_has_the_shape_of_the_weight(quantizer: Any) -> None:
    layer = linear(quantizer)
    expected = layer.quant_weight().value
    layer.weight_quant.skip_create_quant_tensor = True
    assert torch.equal(layer.quant_weight(), expected)


@every_act
def test_a_plain_tensor_has_the_shape_of_the_activation(quantizer: Any) -> None:
    layer, x = identity(quantizer), torch.randn(2, 10, 3)
    expected = layer(x).value
    layer.act_quant.skip_create_quant_tensor = True
    assert torch.equal(layer.act_quant(x), expected)


@every_weight
@pytest.mark.parametrize("metadata_only", [False, True])
def test_what_is_kept_of_a_weight(quantizer: Any, metadata_only: bool) -> None:
    layer = linear(quantizer).eval()
    proxy = layer.weight_quant
    expected = layer.quant_weight()
    proxy.cache_inference_quant_weight_metadata_only = metadata_only
    proxy.cache_inference_quant_weight = True
    assert torch.equal(layer.quant_weight().value, expected.value)
    is_float = quantizer is MXFloat8e4m3Weight
    kind = _CachedIOGroupwiseFloat if is_float else _CachedIOGroupwiseInt
    assert type(proxy._cached_weight.find(layer.weight)) is kind
    with torch.no_grad():
        layer.weight.zero_()  # what is read from now on is what was kept
    assert torch.equal(proxy.scale_(), expected.scale_)
    assert torch.equal(proxy.scale(), expected.scale)
    assert torch.equal(
        layer.quant_weight().value, 0 * expected.value if metadata_only else expected.value
    )


@every_act
def test_scales_of_activations_are_read_where_they_are_kept(quantizer: Any) -> None:
    layer, x = identity(quantizer).eval(), torch.randn(2, 10)
    proxy = layer.act_quant
    for name in ("scale", "zero_point"):
        with pytest.raises(RuntimeError, match=rf"{name}\(\): the .* depends on its input"):
            getattr(proxy, name)()
    assert proxy.bit_width() == 8
    proxy.cache_inference_quant_act = True
    expected = layer(x)
    assert torch.equal(proxy.scale(), expected.scale)
    assert torch.equal(proxy.zero_point(), expected.zero_point)
    proxy.disable_quant = True
    assert proxy.scale() is None


@pytest.mark.parametrize("dim", [0, 2, -1, -3])
@every_act
def test_bits_are_read_without_an_input(quantizer: Any, dim: int) -> None:
    layer = identity(quantizer, group_dim=dim)
    assert layer.act_quant.bit_width() == 8


def test_a_disabled_quantizer() -> None:
    layer = linear(MXInt8Weight)
    layer.weight_quant.disable_quant = True
    assert layer.quant_weight() is layer.weight
    assert layer.weight_quant.scale_() is None and layer.weight_quant.group_size == 4


@every_weight
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(quantizer: Any, copied: Any) -> None:
    layer = linear(quantizer)
    other = copied(layer)
    assert torch.equal(other.quant_weight().value, layer.quant_weight().value)
    assert other.quant_weight().shape == (3, 10)


def test_a_new_weight_of_another_shape() -> None:
    layer = linear(MXInt8Weight)
    layer.weight = nn.Parameter(torch.randn(5, 7))
    assert layer.quant_weight().shape == (5, 7)
    assert layer.quant_weight().scale_.shape == (5, 2, 1)


class Doubled(nn.Module):
    """A parametrization."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


@every_weight
def test_a_parametrized_weight(quantizer: Any) -> None:
    layer = linear(quantizer)
    expected = layer.quant_weight().value
    parametrize.register_parametrization(layer, "weight", Doubled())
    assert torch.equal(layer.quant_weight().value, 2 * expected)


@every_weight
def test_checkpoints_hold_nothing_of_the_quantizer(quantizer: Any) -> None:
    layer, other = linear(quantizer), linear(quantizer)
    layer.weight.data *= 3
    assert list(layer.state_dict()) == ["weight", "bias"]
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.quant_weight().value, layer.quant_weight().value)


@every_act
def test_a_quantized_input_is_quantized_anew(quantizer: Any) -> None:
    x = torch.randn(2, 10)
    first, second = identity(quantizer), identity(quantizer, group_size=3)
    y = second(first(x))
    assert torch.equal(y.value, second(first(x).value).value) and y.group_size == 3


def model() -> nn.Module:
    torch.manual_seed(0)
    groups = {"weight_group_size": 4, "input_group_size": 4}
    return nn.Sequential(
        qnn.QuantConv2d(6, 8, 3, weight_quant=MXInt8Weight, input_quant=MXInt8Act, **groups),
        identity(MXFloat8e4m3Act),
        nn.Flatten(),
        qnn.QuantLinear(72, 5, weight_quant=MXFloat8e4m3Weight, input_quant=MXFloat8e4m3Act),
    )


def test_modes_of_inference_and_export_see_through() -> None:
    network, x = model().eval(), torch.randn(2, 6, 5, 5)
    expected = network(x)
    with torch.no_grad(), quant_inference_mode(network):
        assert torch.equal(network(x), expected)
    assert torch.equal(torch.export.export(network, (x,)).module()(x), expected)
    batched = torch.func.vmap(lambda image: network[0](image[None])[0])(x)
    torch.testing.assert_close(batched, network[0](x))


@pytest.mark.long
def test_a_whole_network_compiles_to_one_graph() -> None:
    network, x = model(), torch.randn(2, 6, 5, 5)
    expected = network(x)
    actual = torch.compile(network, fullgraph=True)(x)
    torch.testing.assert_close(actual, expected)
    with config.overrides(JIT_ENABLED=True):
        assert torch.equal(network(x), expected)
    torch._dynamo.reset()
