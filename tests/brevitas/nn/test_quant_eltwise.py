"""Sums and concatenations on one grid."""

from __future__ import annotations

import pytest
import torch

import brevitas.nn as qnn
from brevitas.quant import Int8ActPerTensorFloat
from quant_tensors import make

A, B = (torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
LAYERS = {
    "add": (qnn.QuantEltwiseAdd, lambda layer, x, y: layer(x, y), lambda x, y: x + y),
    "cat": (qnn.QuantCat, lambda layer, x, y: layer([x, y]), lambda x, y: torch.cat([x, y], 1)),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def trained(name: str, **keywords):
    build, call, _ = LAYERS[name]
    layer = build(**keywords)
    call(layer, A, B)
    return layer.eval(), call


@every_layer
def test_values_are_those_of_the_parts_one_by_one(name):
    layer, call = trained(name)
    _, _, formula = LAYERS[name]
    operands = [layer.input_quant(x).value for x in (A, B)]
    assert torch.equal(call(layer, A, B), layer.output_quant(formula(*operands)).value)


@every_layer
def test_result_on_the_grid_of_the_operands(name):
    layer, call = trained(name, output_quant=None, return_quant_tensor=True)
    y = call(layer, A, B)
    assert y.is_valid and y.scale == layer.input_quant.scale()
    assert y.bit_width == (9 if name == "add" else 8)
    layer.return_quant_tensor = False
    assert torch.equal(call(layer, A, B), y.value)


@every_layer
def test_worst_case_fits_the_bits(name):
    layer, call = trained(name, output_quant=None, return_quant_tensor=True)
    for extreme in (1e6, -1e6):
        assert call(layer, torch.full_like(A, extreme), torch.full_like(A, extreme)).is_valid


@every_layer
def test_quantized_operands_are_taken_as_they_are(name):
    (x, _), (y, _) = make((2, 3), 0.5, seed=0), make((2, 3), 0.5, seed=1)
    build, call, formula = LAYERS[name]
    layer = build(input_quant=None, output_quant=None, return_quant_tensor=True)
    result = call(layer, x, y)
    assert result.is_valid and torch.equal(result.value, formula(x.value, y.value))
    assert result.scale == 0.5
    plain = build(input_quant=None, output_quant=None)
    assert torch.equal(call(plain, x, y.set(scale=torch.tensor(0.25))), result.value)


@every_layer
def test_one_quantizer_for_operands_and_result(name):
    layer, call = trained(name, tie_input_output_quant=True, return_quant_tensor=True)
    assert layer.output_quant is layer.input_quant
    y = call(layer, A, B)
    assert y.is_valid and y.scale == layer.input_quant.scale() and y.bit_width == 8


@every_layer
def test_keywords_go_by_prefix(name):
    layer, call = trained(
        name,
        input_bit_width=4,
        output_quant=Int8ActPerTensorFloat,
        output_bit_width=3,
        return_quant_tensor=True,
    )
    assert layer.input_quant.bit_width() == 4 and call(layer, A, B).bit_width == 3
    with pytest.warns(UserWarning, match="Did you mean 'input_bit_width'"):
        LAYERS[name][0](input_bitwidth=4)


def test_concatenation_along_any_dimension():
    layer = qnn.QuantCat(return_quant_tensor=True)
    assert layer([A, B], dim=0).shape == (6, 4)
    assert layer((A, B), dim=-1).shape == (3, 8)
