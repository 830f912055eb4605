"""A view of parameters sees every replacement."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from brevitas.proxy._tracked import TrackedParameters


def test_reads_at_every_access():
    layers = [nn.Linear(2, 3)]
    tracked = TrackedParameters(layers, "weight")
    assert len(tracked) == 1 and tracked[0] is layers[0].weight
    layers.append(nn.Linear(2, 3))
    assert len(tracked) == 2 and tracked[-1] is layers[1].weight
    layers[0].weight = nn.Parameter(torch.zeros(3, 2))
    assert tracked[0] is layers[0].weight
    assert list(tracked) == [layers[0].weight, layers[1].weight]


def test_leaves_out_layers_without_the_parameter():
    layers = [nn.Linear(2, 3, bias=False), nn.Linear(2, 3)]
    tracked = TrackedParameters(layers, "bias")
    assert [parameter is layers[1].bias for parameter in tracked] == [True]
    with pytest.raises(IndexError):
        tracked[1]
