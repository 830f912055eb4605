"""Lookup tables with quantized rows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import brevitas.nn as qnn
from brevitas.quant import Int8WeightPerChannelFloat

INDICES = torch.tensor([[1, 2, 0], [5, 2, 2]])


def pair(**keywords):
    """A quantized table and a float one with the same rows."""
    torch.manual_seed(0)
    layer = qnn.QuantEmbedding(6, 4, **keywords)
    names = set(keywords) - {"weight_quant", "return_quant_tensor", "weight_bit_width"}
    twin = nn.Embedding(6, 4, **{name: keywords[name] for name in names})
    with torch.no_grad():
        twin.weight.copy_(layer.weight)
    return layer, twin


def test_rows_of_the_quantized_table():
    layer, _ = pair(return_quant_tensor=True, weight_bit_width=3)
    y, weight = layer(INDICES), layer.quant_weight()
    assert y.is_valid and y.bit_width == 3 and y.scale == weight.scale
    assert torch.equal(y.value, weight.value[INDICES])
    layer.return_quant_tensor = False
    assert torch.equal(layer(INDICES), y.value)


def test_each_row_may_have_its_own_scale():
    layer, _ = pair(return_quant_tensor=True, weight_quant=Int8WeightPerChannelFloat)
    y = layer(INDICES)
    assert y.is_valid and y.scale.shape == (2, 3, 1)
    assert torch.equal(y.scale, layer.quant_weight().scale[INDICES])


@pytest.mark.parametrize(
    "keywords",
    [{}, {"padding_idx": 2}, {"scale_grad_by_freq": True}, {"max_norm": 0.5}, {"sparse": True}],
    ids=str,
)
def test_without_quantizer_is_the_float_layer(keywords):
    layer, twin = pair(weight_quant=None, **keywords)
    outputs = [module(INDICES) for module in (layer, twin)]
    assert torch.equal(*outputs)
    for output in outputs:
        output.square().sum().backward()
    gradients = [module.weight.grad for module in (layer, twin)]
    assert gradients[0].is_sparse == gradients[1].is_sparse
    assert torch.equal(*(gradient.to_dense() for gradient in gradients))
    assert torch.equal(layer.weight, twin.weight)  # as scaled down to `max_norm`


@pytest.mark.parametrize("keywords", [{}, {"padding_idx": 2}, {"sparse": True}], ids=str)
def test_gradient_passes_the_quantizer_straight(keywords):
    layer, twin = pair(**keywords)
    for module in (layer, twin):
        module(INDICES).sum().backward()
    # The row of the largest magnitude gives the scale, and a share of its gradient.
    largest = layer.weight.abs().amax(dim=1).argmax()
    others = [row for row in range(6) if row != largest]
    assert torch.equal(layer.weight.grad[others], twin.weight.grad.to_dense()[others])


def test_norms_are_limited_before_the_table_is_quantized():
    layer, _ = pair(max_norm=0.5, return_quant_tensor=True)
    y = layer(INDICES)
    assert bool((layer.weight[INDICES].norm(dim=-1) <= 0.5 + 1e-6).all())
    assert torch.equal(y.value, layer.quant_weight().value[INDICES]) and y.is_valid


def test_start_values_and_float_checkpoints():
    weight = torch.randn(6, 4)
    layer = qnn.QuantEmbedding(6, 4, _weight=weight)
    assert torch.equal(layer.weight, weight)
    twin = nn.Embedding(6, 4)
    layer.load_state_dict(twin.state_dict())
    assert torch.equal(layer.weight, twin.weight)
    assert torch.equal(layer(INDICES), layer.quant_weight().value[INDICES])


def test_from_pretrained_makes_a_quantized_table():
    weight = torch.randn(6, 4)
    layer = qnn.QuantEmbedding.from_pretrained(weight, freeze=False)
    assert isinstance(layer, qnn.QuantEmbedding) and torch.equal(layer.weight, weight)
    assert layer.quant_weight().bit_width == 8


def test_a_misspelled_keyword_is_reported():
    with pytest.warns(UserWarning, match="Did you mean 'weight_bit_width'"):
        qnn.QuantEmbedding(6, 4, weight_bitwidth=4)
