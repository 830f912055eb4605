"""Tests that scales follow their value through a change of its shape."""

from __future__ import annotations

import doctest

import pytest
import torch

from brevitas.quant_tensor import _broadcast_fields as module

OLD = (2, 4, 6, 6)


def test_doctests():
    assert doctest.testmod(module, extraglobs={"torch": torch}).failed == 0


@pytest.mark.parametrize(
    "field_shape", [(), (1,), (1, 4, 1, 1), (4, 1, 1), (2, 1, 1, 1), (6,), OLD]
)
@pytest.mark.parametrize(
    "new",
    [(2, 4, 36), (8, 36), (2, 144), (288,), (2, 2, 2, 6, 6), (1, 2, 4, 6, 6), (2, 4, 6, 1, 6)],
)
def test_reshaped_field_belongs_to_the_same_elements(field_shape, new):
    field = torch.rand(field_shape, generator=torch.Generator().manual_seed(0))
    reshaped = module.reshape_field(field, OLD, new)
    assert reshaped.dim() <= len(new)
    expected = field.broadcast_to(OLD).reshape(new)
    assert torch.equal(reshaped.broadcast_to(new), expected)


def test_runs_without_variation_stay_small():
    field = torch.rand(1, 4, 1, 1)
    assert module.reshape_field(field, OLD, (2, 4, 36)).shape == (1, 4, 1)


def test_empty_value():
    assert module.reshape_field(torch.rand(4, 1), (4, 0), (0,)).shape == (1,)
