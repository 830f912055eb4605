"""Tests of how records are built from fields and taken apart."""

from __future__ import annotations

import math

import pytest
import torch

from brevitas.quant_tensor import _record as module


@pytest.mark.parametrize("number", [0.2, 0.0, -1e-30, 3, 2**40 + 1, math.inf, 1 / 3])
def test_a_number_becomes_its_nearest_float32(number):
    field = module.as_field(number, torch.ones(1))
    assert torch.equal(field, torch.tensor(float(number), dtype=torch.float32))
    assert module._nearest_float32(number) == field.item()
