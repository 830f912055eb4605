"""Restrictions: values, gradients, and the way back to the stored domain."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from brevitas.core.function_wrapper import CeilSte
from brevitas.core.restrict_val import (
    FloatRestrictValue,
    FloatToIntImplType,
    IntRestrictValue,
    LogFloatRestrictValue,
    PowerOfTwoRestrictValue,
    QuantRestrictValue,
    RestrictValueType,
    RoundSte,
    SignedFloatRestrictValue,
    _ClampValue,
    _RestrictClampValue,
    _RestrictValue,
)

RESTRICTIONS = [
    FloatRestrictValue,
    SignedFloatRestrictValue,
    LogFloatRestrictValue,
    IntRestrictValue,
    PowerOfTwoRestrictValue,
]


@pytest.mark.parametrize("restriction", RESTRICTIONS)
@pytest.mark.parametrize("value", [1.0, 4.0, 16.0])
def test_stored_value_gives_the_value_back(restriction: type[nn.Module], value: float) -> None:
    """1, 4 and 16 obey every restriction, so each is a fixed point."""
    impl = restriction()
    stored = impl.restrict_init_float(value)
    tensor = torch.tensor([value])
    assert impl(torch.tensor(stored)).item() == value
    assert torch.equal(impl.restrict_init_tensor(tensor), torch.tensor([stored]))
    assert torch.equal(impl.restrict_init_module()(tensor), torch.tensor([stored]))
    assert torch.equal(impl.restrict_init_inplace_module()(tensor), torch.tensor([stored]))


def _gradient(module: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    y = module(x)
    y.sum().backward()
    return y.detach(), x.grad


X = torch.tensor([-3.7, -0.2, 0.0, 0.6, 2.5])


def test_float_is_the_magnitude_and_can_leave_zero() -> None:
    y, gradient = _gradient(FloatRestrictValue(), X)
    assert torch.equal(y, X.abs())
    assert gradient.tolist() == [-1.0, -1.0, 1.0, 1.0, 1.0]


def test_signed_float_is_the_identity() -> None:
    y, gradient = _gradient(SignedFloatRestrictValue(), X)
    assert torch.equal(y, X) and torch.equal(gradient, torch.ones_like(X))


def test_integer_rounds() -> None:
    y, gradient = _gradient(IntRestrictValue(), X)
    assert torch.equal(y, X.round()) and torch.equal(gradient, torch.ones_like(X))
    assert torch.equal(IntRestrictValue(CeilSte())(X), X.ceil())


def test_logarithmic_gradient() -> None:
    y, gradient = _gradient(LogFloatRestrictValue(), X)
    # exp2 and its derivative are each right to a few units in the last place
    assert torch.allclose(y, (X.double().exp2()).float(), rtol=4 * 2**-23)
    assert torch.allclose(gradient, y * math.log(2), rtol=4 * 2**-23)


def test_power_of_two_is_exact() -> None:
    exponents = torch.arange(-126, 128).float()
    y, gradient = _gradient(PowerOfTwoRestrictValue(), exponents + 0.25)
    assert torch.equal(y, torch.ldexp(torch.ones(()), exponents))
    assert torch.allclose(gradient, y * math.log(2), rtol=4 * 2**-23)


@pytest.mark.parametrize("restriction", [LogFloatRestrictValue, PowerOfTwoRestrictValue])
@pytest.mark.parametrize("value", [0.0, -3.5, float("nan")])
def test_logarithm_of_what_has_none(restriction: type[nn.Module], value: float) -> None:
    with pytest.raises(ValueError, match=f"{value}.*> 0"):
        restriction().restrict_init_float(value)


def test_clamp_value_keeps_the_sign() -> None:
    y, gradient = _gradient(_ClampValue(0.5), X)
    assert torch.equal(y, torch.tensor([-3.7, -0.5, 0.5, 0.6, 2.5]))
    assert torch.equal(gradient, torch.ones_like(X))
    assert torch.equal(_ClampValue(None)(X), X)


def test_clamp_comes_after_the_restriction() -> None:
    # 2 ** round(0) = 1 is clamped to 3; the other order would give 2 ** 3
    clamped = _RestrictClampValue(3.0, None, PowerOfTwoRestrictValue())
    assert clamped(torch.tensor(0.0)).item() == 3.0


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ((None, None), X.tolist()),
        ((1.0, None), [-3.7, -1.0, 1.0, 1.0, 2.5]),
        ((None, 1.0), [-3.7, -0.2, 0.0, 0.6, 1.0]),
        ((0.0, 1.0), [0.0, 0.0, 0.0, 0.6, 1.0]),
    ],
)
def test_clamp_bounds(bounds: tuple, expected: list[float]) -> None:
    y, gradient = _gradient(_RestrictClampValue(*bounds, SignedFloatRestrictValue()), X)
    assert torch.equal(y, torch.tensor(expected))
    assert torch.equal(gradient, torch.ones_like(X))


def test_no_restriction_is_the_identity() -> None:
    assert torch.equal(_RestrictValue(None)(X), X)


def test_names_that_clients_import_from_here() -> None:
    assert RestrictValueType.POWER_OF_TWO and FloatToIntImplType.ROUND and RoundSte()


class _Quarters(nn.Module):
    """A quantizer: the value first, then its grid."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x * 4).round() / 4, torch.tensor(0.25), torch.tensor(0.0), torch.tensor(8.0)


@pytest.mark.parametrize(("shape", "expected"), [(None, (2, 1)), ((2, 1, 1), (2, 1, 1))])
def test_a_scale_that_is_quantized(
    shape: tuple[int, ...] | None, expected: tuple[int, ...]
) -> None:
    impl = QuantRestrictValue(_Quarters(), (2, 1), shape)
    x = torch.tensor([[0.3], [0.6]])
    assert torch.equal(impl(x), torch.tensor([0.25, 0.5]).reshape(expected))
    assert impl.restrict_init_float(0.3) == 0.3 and impl.restrict_init_tensor(x) is x
    assert impl.restrict_init_module()(x) is x and impl.restrict_init_inplace_module()(x) is x
    assert isinstance(impl.retrocompatibility_op(x), nn.Module)
