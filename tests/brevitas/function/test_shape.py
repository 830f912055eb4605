"""Tests of the statistic shapes."""

from __future__ import annotations

import doctest

import pytest
import torch

from brevitas.function import shape


def test_doctests():
    assert doctest.testmod(shape, extraglobs={"torch": torch}).failed == 0


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (shape.over_tensor, (24,)),
        (shape.over_output_channels, (2, 12)),
        (shape.over_batch_over_tensor, (2, 12)),
        (shape.over_output_features, (6, 4)),
        (shape.over_batch_over_output_channels, (2, 3, 4)),
    ],
)
def test_reshape(function, expected):
    x = torch.zeros(2, 3, 4)
    assert tuple(x.reshape(function(x)).shape) == expected


def test_all_names_are_public():
    assert all(callable(getattr(shape, name)) for name in shape.__all__)
