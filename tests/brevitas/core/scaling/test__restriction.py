"""One rule from a statistic or a stored value to a scale."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from brevitas.core.function_wrapper import CeilSte, RoundSte
from brevitas.core.restrict_val import (
    FloatRestrictValue,
    LogFloatRestrictValue,
    PowerOfTwoRestrictValue,
    SignedFloatRestrictValue,
)
from brevitas.core.scaling._restriction import ScaleRestriction, ScaleSource, SourceKind

STATISTIC = torch.tensor([0.01, 0.7, 1.0, 3.0, 100.0])
THRESHOLD = torch.tensor(128.0)

#: restriction -> (real value of a statistic, domain in which it is stored)
FORMULAS = [
    (None, lambda x: x, lambda x: x),
    (FloatRestrictValue(), lambda x: x, lambda x: x),
    (SignedFloatRestrictValue(), lambda x: x, lambda x: x),
    (LogFloatRestrictValue(), lambda x: x, torch.log2),
    (PowerOfTwoRestrictValue(RoundSte()), lambda x: 2.0 ** x.log2().round(), torch.log2),
    (PowerOfTwoRestrictValue(CeilSte()), lambda x: 2.0 ** x.log2().ceil(), torch.log2),
]
IDS = ["default", "float", "signed", "log", "pot", "pot-ceil"]


@pytest.mark.parametrize(("impl", "real", "stored"), FORMULAS, ids=IDS)
@pytest.mark.parametrize("minimum", [None, 0.5])
def test_formula(impl: nn.Module | None, real: object, stored: object, minimum: float) -> None:
    restriction = ScaleRestriction(impl, minimum)
    expected = real(STATISTIC).clamp_min(minimum or 0.0)
    # log2 and exp2 are exact to a few units in the last place.
    close = {"rtol": 8 * 1.2e-7, "atol": 0.0}
    torch.testing.assert_close(
        restriction.from_statistic(STATISTIC, THRESHOLD), expected / THRESHOLD, **close
    )
    torch.testing.assert_close(restriction.from_statistic(STATISTIC, None), expected, **close)
    torch.testing.assert_close(restriction.to_stored(STATISTIC), stored(STATISTIC))
    torch.testing.assert_close(
        restriction.from_stored(stored(STATISTIC), THRESHOLD), expected / THRESHOLD, **close
    )
    assert restriction.init_from_float(3.0) == pytest.approx(stored(torch.tensor(3.0)).item())
    torch.testing.assert_close(restriction.init_from_tensor(STATISTIC), stored(STATISTIC))


def test_scales_are_powers_of_two() -> None:
    restriction = ScaleRestriction(PowerOfTwoRestrictValue(CeilSte()), None)
    for threshold in (torch.tensor(128.0), torch.tensor(7.0), torch.tensor(100.0)):
        exponent = restriction.from_statistic(STATISTIC, threshold).log2()
        assert torch.equal(exponent, exponent.round())


def test_the_minimum_passes_gradients() -> None:
    statistic = STATISTIC.clone().requires_grad_()
    ScaleRestriction(None, 0.8).from_statistic(statistic, torch.tensor(4.0)).sum().backward()
    assert statistic.grad.tolist() == [0.25] * 5


def test_restriction_of_threshold_and_quotient() -> None:
    power = PowerOfTwoRestrictValue(RoundSte())
    by_threshold = ScaleRestriction(None, None, restrict_threshold_impl=power)
    assert by_threshold.from_statistic(torch.tensor(3.0), torch.tensor(7.0)).item() == 3.0 / 8.0
    by_quotient = ScaleRestriction(None, None, restrict_scale_threshold_impl=FloatRestrictValue())
    assert by_quotient.from_statistic(torch.tensor(3.0), torch.tensor(4.0)).item() == 0.75


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_scales_in_float32(dtype: torch.dtype) -> None:
    restriction = ScaleRestriction(None, 1e-10)
    for scale in (
        restriction.from_statistic(STATISTIC.to(dtype), THRESHOLD),
        restriction.from_stored(STATISTIC.to(dtype), THRESHOLD),
    ):
        assert scale.dtype is torch.float32
        assert torch.equal(scale, STATISTIC.to(dtype).float() / THRESHOLD)


@pytest.mark.parametrize("kind", list(SourceKind))
def test_the_threshold_is_restricted_where_the_scale_is(kind: SourceKind) -> None:
    restriction = ScaleRestriction(PowerOfTwoRestrictValue(), None)
    stored = torch.tensor(3.0)
    scale = restriction.scale_of(ScaleSource(kind, stored), torch.tensor(240.0))
    expected = {
        SourceKind.STORED: 8.0 / 256.0,
        SourceKind.STATISTIC: 4.0 / 256.0,
        SourceKind.BATCH: 3.0 / 240.0,
    }
    torch.testing.assert_close(scale, torch.tensor(expected[kind]))
