"""What the fused path knows on the host, and its compiled form."""

from __future__ import annotations

import pytest
import torch

from brevitas.core.bit_width import BitWidthConst
from brevitas.core.quant import _fused
from brevitas.core.quant._fused import (
    bounds,
    is_zero,
    number_of,
    quantize_program,
    value_in_region,
)
from brevitas.core.quant.int_base import IntQuant
from brevitas.core.utils import StatelessBuffer
from brevitas.core.zero_point import ZeroZeroPoint
from brevitas.ops.fake_quant import FakeQuantPlan, fake_quant


def test_constants_are_known_until_hooked_or_replaced():
    zero = ZeroZeroPoint()
    assert is_zero(zero) and number_of(zero.zero_point) == 0.0
    zero.zero_point.replace(StatelessBuffer(3.0))
    assert not is_zero(zero) and number_of(zero.zero_point) == 3.0
    zero.zero_point.register_forward_hook(lambda *arguments: None)
    assert number_of(zero.zero_point) is None and number_of(torch.nn.Identity()) is None


@pytest.mark.parametrize("zero_point", [None, torch.tensor(2.0), torch.tensor([[1.0], [2.0]])])
@pytest.mark.parametrize("scale", [torch.tensor(0.5), torch.tensor([[0.5], [0.25]])])
def test_the_compiled_value_equals_the_fused_operation(scale, zero_point):
    plan, int_quant, x = FakeQuantPlan(), IntQuant(False, False), torch.randn(2, 40)
    lower, upper = bounds(int_quant, BitWidthConst(4), torch.tensor(4.0))
    assert (lower, upper) == (0.0, 15.0)
    expected = fake_quant(x, scale, zero_point, lower, upper, plan)
    key, bits = (plan, False, False), torch.tensor(4.0)
    actual = value_in_region(key, lambda: quantize_program(*key), x, scale, zero_point, bits)
    assert torch.equal(actual, expected)


def test_shapes_without_a_kernel_are_left_to_the_caller(monkeypatch):
    monkeypatch.setattr(_fused, "_VALUE_REGIONS", {})
    scale, bits = torch.full((2, 1, 4, 1), 0.5), torch.tensor(4.0)
    x = torch.randn(2, 3, 4, 5)
    key = (FakeQuantPlan(), True, False)
    assert value_in_region(key, lambda: quantize_program(*key), x, scale, None, bits) is None
    assert not _fused._VALUE_REGIONS
