"""Layers of earlier releases that select among quantized values."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import brevitas.nn as qnn
from quant_tensors import make

ROWS = {
    "max_pool1d": (qnn.QuantMaxPool1d, nn.MaxPool1d, (2,), (2, 3, 8)),
    "max_pool2d": (qnn.QuantMaxPool2d, nn.MaxPool2d, (3, 2, 1), (2, 3, 8, 8)),
    "dropout": (qnn.QuantDropout, nn.Dropout, (0.5,), (2, 3, 8)),
}
every_row = pytest.mark.parametrize("name", ROWS)


@every_row
@pytest.mark.parametrize("training", [True, False])
def test_quantized_tensors_stay_quantized(name, training):
    quantized, twin, arguments, shape = ROWS[name]
    x, _ = make(shape, 0.25)
    layer = quantized(*arguments).train(training)
    results = []
    for module, value in ((layer, x), (twin(*arguments).train(training), x.value)):
        torch.manual_seed(0)
        results.append(module(value))
    assert results[0].is_valid and torch.equal(results[0].value, results[1])
    layer.return_quant_tensor = False
    torch.manual_seed(0)
    assert torch.equal(layer(x), results[1])


@every_row
def test_plain_tensors_pass(name):
    quantized, twin, arguments, shape = ROWS[name]
    x = torch.randn(shape)
    layer = copy.deepcopy(quantized(*arguments).eval())
    assert torch.equal(layer(x), twin(*arguments).eval()(x))
    assert isinstance(layer, twin) and layer.channelwise_separable


def test_indices_of_the_maximum():
    x, _ = make((1, 1, 4, 4), 0.25)
    values, indices = qnn.QuantMaxPool2d(2, return_indices=True)(x)
    assert values.is_valid
    assert torch.equal(x.value.flatten()[indices.flatten()], values.value.flatten())


def test_older_names_of_truncating_pools():
    assert qnn.QuantAvgPool2d is qnn.TruncAvgPool2d
    assert qnn.QuantAdaptiveAvgPool2d is qnn.TruncAdaptiveAvgPool2d
