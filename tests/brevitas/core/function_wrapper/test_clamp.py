"""Clamps whose gradient is zero where they limit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from brevitas.core.function_wrapper.clamp import (
    ClampMin,
    FloatClamp,
    ScalarClamp,
    TensorClamp,
    as_limit,
    available_float,
)
from brevitas.core.function_wrapper.ops_ste import InplaceTensorClampSte

X = torch.tensor([-3.0, -1.0, 0.5, 2.0, 5.0])


def test_tensor_clamp_hands_the_gradient_to_the_active_bound() -> None:
    x = X.clone().requires_grad_()
    low, high = torch.tensor(-2.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    y = TensorClamp()(x, low, high)
    y.sum().backward()
    assert torch.equal(y, X.clamp(-2.0, 3.0))
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
    assert (low.grad.item(), high.grad.item()) == (1.0, 1.0)


def test_scalar_clamp() -> None:
    x = X.clone().requires_grad_()
    y = ScalarClamp(-2.0, 3.0)(x)
    y.sum().backward()
    assert torch.equal(y, X.clamp(-2.0, 3.0))
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_clamp_min() -> None:
    x = X.clone().requires_grad_()
    y = ClampMin(0.0)(x)
    y.sum().backward()
    assert torch.equal(y, X.clamp_min(0.0))
    assert x.grad.tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]


# Minifloats --------------------------------------------------------------------------------------

E4M3 = tuple(torch.tensor(number) for number in (4.0, 1.875, 7.0))
BEYOND = torch.tensor([-math.inf, -500.0, -448.0, 0.0, 448.0, 480.0, math.inf, math.nan])
INF, NAN = math.inf, math.nan


def clamped(**declared: object) -> list[float]:
    clamp = FloatClamp(TensorClamp(), max_available_float=448.0, **declared)
    x, *codes = clamp(BEYOND.clone(), *E4M3)
    assert codes == [clamp.saturating, clamp.inf_values, clamp.nan_values]
    return x.tolist()


def same(actual: list[float], expected: list[float]) -> bool:
    return torch.tensor(actual).equal(torch.tensor(expected)) or all(
        a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(actual, expected, strict=True)
    )


def test_saturating_minifloats() -> None:
    inside = [-448.0, 0.0, 448.0]
    assert same(clamped(signed=True), [-448.0, -448.0, *inside, 448.0, 448.0, NAN])
    assert same(clamped(signed=False), [0.0, 0.0, 0.0, 0.0, 448.0, 448.0, 448.0, NAN])


def test_overflowing_minifloats() -> None:
    nan, both = {"nan_values": ("111",)}, {"nan_values": ("11",), "inf_values": ("00",)}
    inside = [-448.0, 0.0, 448.0]
    overflow = {"saturating": False}
    assert same(clamped(signed=True, **nan, **overflow), [NAN, NAN, *inside, NAN, NAN, NAN])
    assert same(clamped(signed=True, **both, **overflow), [-INF, -INF, *inside, INF, INF, NAN])
    # An unsigned format has no minus infinity.
    expected = [NAN, NAN, NAN, 0.0, 448.0, INF, INF, NAN]
    assert same(clamped(signed=False, **both, **overflow), expected)


def test_the_limit_of_the_bits_counts_without_another_one() -> None:
    clamp = FloatClamp(TensorClamp(), True)
    assert clamp(torch.tensor([470.0, 490.0]), *E4M3)[0].tolist() == [470.0, 480.0]
    assert not clamp.state_dict()


def test_a_clamp_in_place_overflows_as_well() -> None:
    clamp = FloatClamp(
        InplaceTensorClampSte(), True, None, ("111",), torch.tensor(448.0), saturating=False
    )
    x, *_ = clamp(torch.tensor([1.0, 480.0]), *E4M3)
    assert x[0] == 1.0 and x[1].isnan()


def test_a_minifloat_that_overflows_needs_a_code() -> None:
    with pytest.raises(ValueError, match=r"saturating=False.*inf_values=None.*saturating=True"):
        FloatClamp(TensorClamp(), True, saturating=False)


def test_gradient_of_learned_limits() -> None:
    numbers: list[Tensor] = [number.clone().requires_grad_() for number in E4M3]
    FloatClamp(TensorClamp(), True)(torch.tensor([500.0, 1.0]), *numbers)[0].sum().backward()
    exponent, mantissa, bias = (number.grad.item() for number in numbers)
    assert mantissa == 256.0 and bias == pytest.approx(-math.log(2) * 480, rel=1e-6)
    assert exponent == pytest.approx(480 * math.log(2) * 16 * math.log(2), rel=1e-6)


def test_limits_beyond_the_dtype() -> None:
    assert as_limit(1e39, None, None)() == math.inf and as_limit(None, None, None) is None
    assert available_float(*E4M3, as_limit(1e39, None, None)) == 480.0
    half = as_limit(448.0, None, torch.float16)
    assert available_float(*E4M3, half).dtype is torch.float32
