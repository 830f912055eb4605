"""Constant and learned scales against their formulas."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from brevitas import config
from brevitas.core.function_wrapper import CeilSte, OverOutputChannelView, OverTensorView
from brevitas.core.restrict_val import (
    FloatRestrictValue,
    LogFloatRestrictValue,
    PowerOfTwoRestrictValue,
)
from brevitas.core.scaling import (
    ConstScaling,
    ParameterFromRuntimeStatsScaling,
    ParameterFromStatsFromParameterScaling,
    ParameterScaling,
)
from brevitas.core.stats import AbsMax, AbsPercentile

X, THRESHOLD = torch.zeros(3), torch.tensor(8.0)

#: restriction -> (its class, real value, domain in which it is stored)
RESTRICTIONS = {
    "default": (None, lambda x: x, lambda x: x),
    "float": (FloatRestrictValue, lambda x: x, lambda x: x),
    "log": (LogFloatRestrictValue, lambda x: x, torch.log2),
    "pot": (PowerOfTwoRestrictValue, lambda x: 2.0 ** x.log2().round(), torch.log2),
    "pot-ceil": (
        lambda: PowerOfTwoRestrictValue(CeilSte()),
        lambda x: 2.0 ** x.log2().ceil(),
        torch.log2,
    ),
}
LN2 = torch.log(torch.tensor(2.0))
#: log2 and exp2 are exact to a few units in the last place.
CLOSE = {"rtol": 8 * 1.2e-7, "atol": 0.0}


def _restriction(name: str) -> nn.Module | None:
    build = RESTRICTIONS[name][0]
    return None if build is None else build()


@pytest.mark.parametrize("name", RESTRICTIONS)
@pytest.mark.parametrize("minimum", [None, 5.0])
@pytest.mark.parametrize("init", [3.0, torch.tensor(3.0), torch.tensor([[3.0], [7.0]])])
def test_formula(name: str, minimum: float | None, init: float | Tensor) -> None:
    _, real, stored = RESTRICTIONS[name]
    start = torch.as_tensor(init)
    expected = real(start).clamp_min(minimum or 0.0)
    arguments = {"restrict_scaling_impl": _restriction(name), "scaling_min_val": minimum}
    constant, learned = ConstScaling(init, **arguments), ParameterScaling(init, **arguments)
    for scaling in (constant, learned):
        torch.testing.assert_close(scaling(X, THRESHOLD), expected / THRESHOLD, **CLOSE)
        torch.testing.assert_close(scaling(X), expected, **CLOSE)
    assert not constant.state_dict() and list(learned.state_dict()) == ["value"]
    torch.testing.assert_close(learned.value.data, stored(start))


@pytest.mark.parametrize("name", RESTRICTIONS)
def test_gradient(name: str) -> None:
    _, real, stored = RESTRICTIONS[name]
    scaling = ParameterScaling(3.0, restrict_scaling_impl=_restriction(name))
    scaling(X, THRESHOLD).backward()
    # Stored as it is: 1 / threshold; as a logarithm: d 2**v / dv = ln(2) * 2**v, over threshold.
    is_log = stored is torch.log2
    expected = real(torch.tensor(3.0)) * LN2 if is_log else torch.tensor(1.0)
    torch.testing.assert_close(scaling.value.grad, expected / THRESHOLD, **CLOSE)


def test_the_minimum_lets_a_scale_grow_again() -> None:
    scaling = ParameterScaling(1e-3, scaling_min_val=0.5)
    scaling(X, THRESHOLD).backward()
    assert scaling.value.grad.item() == 1 / 8


def test_shape() -> None:
    scaling = ParameterScaling(3.0, (2, 1))
    assert scaling.value.shape == (2, 1) and scaling(X).unique().item() == 3.0
    for init, bad in ((torch.ones(3), (2, 2)), (torch.ones(3), ()), (torch.ones(2, 2), (2, 1))):
        with pytest.raises(ValueError, match="scaling_init of shape .*to scaling_shape="):
            ParameterScaling(init, bad)


def test_dtype_and_half_precision() -> None:
    assert ParameterScaling(3.0, dtype=torch.float64).value.dtype is torch.float64
    half = ParameterScaling(3.3).half()
    assert half(X, THRESHOLD).dtype is torch.float32
    # A constant does not lose digits on the way through half precision.
    assert torch.equal(ConstScaling(3.3).half().float()(X), torch.tensor(3.3))


@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_no_logarithm(bad: float) -> None:
    with pytest.raises(ValueError, match="expected a number > 0"):
        ParameterScaling(bad, restrict_scaling_impl=LogFloatRestrictValue())


def test_missing_key() -> None:
    with pytest.raises(RuntimeError, match='Missing key.*"value"'):
        ParameterScaling(3.0).load_state_dict({})
    with config.overrides(IGNORE_MISSING_KEYS=True):
        ParameterScaling(3.0).load_state_dict({})


# From statistics of the input --------------------------------------------------------------------


@pytest.mark.parametrize("name", RESTRICTIONS)
@pytest.mark.parametrize("minimum", [None, 2.5])
def test_collected_then_learned(name: str, minimum: float | None) -> None:
    _, real, stored = RESTRICTIONS[name]
    scaling = ParameterFromRuntimeStatsScaling(
        2,
        AbsPercentile(90.0),
        OverTensorView(),
        restrict_scaling_impl=_restriction(name),
        scaling_min_val=minimum,
    )
    smallest, average = minimum or 0.0, None
    for step in (1, 2):
        x = torch.randn(100) * step
        percentile = x.abs().sort()[0][89]
        batch = percentile.clamp_min(smallest) / THRESHOLD
        torch.testing.assert_close(scaling.train()(x, THRESHOLD), batch)
        average = percentile if average is None else 0.9 * average + 0.1 * percentile
        expected = real(average.clamp_min(smallest)).clamp_min(smallest) / THRESHOLD
        if step == 1:
            torch.testing.assert_close(scaling.eval()(x, THRESHOLD), expected, **CLOSE)
    torch.testing.assert_close(
        scaling.value.data, stored(average.clamp_min(smallest)), rtol=8 * 1.2e-7, atol=1e-6
    )
    expected = real(average.clamp_min(smallest)).clamp_min(smallest) / THRESHOLD
    for training in (True, False):
        scale = scaling.train(training)(torch.randn(100), THRESHOLD)
        torch.testing.assert_close(scale, expected, **CLOSE)


def test_collected_per_channel() -> None:
    scaling = ParameterFromRuntimeStatsScaling(1, AbsMax(1), OverOutputChannelView(), (3, 1))
    x = torch.randn(3, 7)
    assert torch.equal(scaling(x, THRESHOLD), x.abs().amax(1, keepdim=True) / THRESHOLD)
    assert torch.equal(scaling.value.data, x.abs().amax(1, keepdim=True))


def test_zeros_are_kept_off_by_the_minimum() -> None:
    scaling = ParameterFromRuntimeStatsScaling(
        2, AbsMax(), restrict_scaling_impl=LogFloatRestrictValue(), scaling_min_val=1e-10
    )
    for _ in range(3):
        scale = scaling(X, THRESHOLD)
        assert scale.item() == pytest.approx(1e-10 / 8) and scaling.value.isfinite()
    assert scaling.eval()(X, THRESHOLD).item() == pytest.approx(1e-10 / 8)


# From statistics of the parameter ----------------------------------------------------------------


def _from_parameter(weight: nn.Parameter, **parts: object) -> nn.Module:
    return ParameterFromStatsFromParameterScaling(
        AbsMax(), OverTensorView(), 0, [weight], (), **parts
    )


@pytest.mark.parametrize("name", RESTRICTIONS)
def test_starts_from_the_parameter_then_stays(name: str) -> None:
    _, real, stored = RESTRICTIONS[name]
    weight = nn.Parameter(torch.randn(3, 5))
    scaling = _from_parameter(weight, restrict_scaling_impl=_restriction(name))
    maximum = weight.detach().abs().max()
    for _ in range(2):
        scale = scaling(weight, THRESHOLD)
        torch.testing.assert_close(scale, real(maximum) / THRESHOLD, **CLOSE)
        weight.data.mul_(3)
    torch.testing.assert_close(scaling.value.data, stored(maximum))
    scale.backward()
    assert scaling.value.grad.abs() > 0 and weight.grad is None


def test_state_of_a_scale_from_the_parameter() -> None:
    weight = nn.Parameter(torch.tensor([-4.0, 2.0]))
    scaling, other = _from_parameter(weight), _from_parameter(weight)
    assert not scaling.state_dict()
    scaling(weight)
    weight.data.mul_(2)
    assert list(scaling.state_dict()) == ["value"]
    other.load_state_dict(scaling.state_dict())
    assert other(weight).item() == 4.0


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("called_before", [False, True])
def test_copies(copied: Callable[[nn.Module], nn.Module], called_before: bool) -> None:
    weight = nn.Parameter(torch.tensor([-4.0, 2.0]))
    scaling = _from_parameter(weight)
    if called_before:
        scaling(weight)
    other = copied(scaling)
    other.value.data.fill_(7.0)
    assert other(weight).item() == (7.0 if called_before else 4.0)
    assert scaling(weight).item() == 4.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_start_that_is_no_number(bad: float) -> None:
    for kind in (ConstScaling, ParameterScaling):
        with pytest.raises(ValueError, match=f"scaling_init={bad}: expected a finite number"):
            kind(bad)
