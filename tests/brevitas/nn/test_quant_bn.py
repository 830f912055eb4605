"""Batch normalizations in evaluation, as a quantized factor and offset."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import brevitas.nn as qnn

CLASSES = {
    1: (nn.BatchNorm1d, qnn.BatchNorm1dToQuantScaleBias),
    2: (nn.BatchNorm2d, qnn.BatchNorm2dToQuantScaleBias),
}
every_size = pytest.mark.parametrize("dims", CLASSES)


def data(dims):
    return torch.randn(4, 3, *[5] * dims, generator=torch.Generator().manual_seed(dims))


def trained_bn(dims, **keywords):
    torch.manual_seed(0)
    bn = CLASSES[dims][0](3, **keywords)
    for parameter in bn.parameters():
        nn.init.normal_(parameter)
    for seed in range(3):
        bn(2 * data(dims) + seed)
    return bn.eval()


@every_size
@pytest.mark.parametrize("affine", [True, False])
def test_a_float_checkpoint_gives_the_same_outputs(dims, affine):
    bn = trained_bn(dims, affine=affine, eps=1e-3)
    layer = CLASSES[dims][1](3, eps=1e-3, weight_quant=None)
    state = bn.state_dict()
    result = layer.load_state_dict(state)
    assert not result.missing_keys and not result.unexpected_keys
    assert set(state) == set(bn.state_dict())  # the caller's dict is left alone
    # One product and one sum instead of four operations: a few roundings.
    torch.testing.assert_close(layer(data(dims)), bn(data(dims)), rtol=1e-5, atol=1e-5)


@every_size
def test_quantized_factors(dims):
    bn, layer = trained_bn(dims), CLASSES[dims][1](3)
    layer.load_state_dict(bn.state_dict())
    weight = layer.quant_weight()
    assert weight.is_valid and weight.bit_width == 8
    shape = (1, -1, *[1] * dims)
    expected = data(dims) * weight.value.reshape(shape) + layer.bias.reshape(shape)
    assert torch.equal(layer(data(dims)), expected)


@every_size
def test_own_checkpoints(dims):
    layer, other = (CLASSES[dims][1](3) for _ in range(2))
    layer.load_state_dict(trained_bn(dims).state_dict())
    assert list(layer.state_dict()) == ["weight", "bias"]
    other.load_state_dict(layer.state_dict())
    assert torch.equal(layer(data(dims)), other(data(dims)))


@every_size
def test_inside_of_a_model(dims):
    """The prefix of a submodule, and its neighbours' keys."""
    float_model = nn.Sequential(nn.Identity(), trained_bn(dims), nn.PReLU())
    model = nn.Sequential(nn.Identity(), CLASSES[dims][1](3, weight_quant=None), nn.PReLU())
    model.load_state_dict(float_model.state_dict())
    x = data(dims)
    torch.testing.assert_close(model(x), float_model.eval()(x), rtol=1e-5, atol=1e-5)
