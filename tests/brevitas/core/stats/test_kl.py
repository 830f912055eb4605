"""Thresholds of least divergence against a loop over thresholds and bins."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from brevitas.core.bit_width import BitWidthConst
from brevitas.core.stats import KLMinimizerThreshold

BINS, EPS = 51, 1e-4


def smoothed(counts: list[float]) -> list[float]:
    empty = sum(count == 0 for count in counts)
    taken = EPS * empty / max(1, len(counts) - empty)
    smooth = [EPS if count == 0 else max(count - taken, count / 2) for count in counts]
    return [count / sum(smooth) for count in smooth]


def divergence(counts: list[float], window: int, levels: int) -> float:
    middle = BINS // 2
    inside = counts[middle - window : middle + window + 1]
    clipped = list(inside)
    clipped[0] += sum(counts[: middle - window])
    clipped[-1] += sum(counts[middle + window + 1 :])
    integer = [round((j - window) * levels / (window + 0.5)) for j in range(len(inside))]
    spread = []
    for j, level in enumerate(integer):
        same = [k for k, other in enumerate(integer) if other == level]
        held = sum(clipped[k] > 0 for k in same)
        spread.append(sum(inside[k] for k in same) / held if clipped[j] > 0 else 0.0)
    p, q = smoothed(clipped), smoothed(spread)
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def expected(x: Tensor, levels: int) -> float:
    largest = x.abs().max().item()
    places = ((x / largest + 1) * BINS / 2).long().clamp(0, BINS - 1)
    counts = torch.bincount(places, minlength=BINS).double().tolist()
    windows = range(min(levels, BINS // 2), BINS // 2 + 1)
    best = min(windows, key=lambda window: divergence(counts, window, levels))
    return largest * (2 * best + 1) / BINS


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("signed", [True, False])
def test_threshold(bits: int, signed: bool) -> None:
    levels = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    minimizer = KLMinimizerThreshold(signed, BitWidthConst(bits), BINS, EPS)
    for seed in range(4):
        x = torch.randn(2000, generator=torch.Generator().manual_seed(seed))
        x = x * x.abs() if signed else x.abs()
        assert minimizer(x).item() == pytest.approx(expected(x, levels), rel=1e-6)


def test_outliers_are_clipped_and_bulk_is_kept() -> None:
    x = torch.cat([torch.linspace(-1, 1, 2001), torch.tensor([20.0])])
    assert 1 <= KLMinimizerThreshold(True, BitWidthConst(4))(x) < 1.2


def test_probabilities_are_positive_and_sum_to_one() -> None:
    minimizer = KLMinimizerThreshold(True, BitWidthConst(8))
    p = minimizer.smooth_normalize_distribution(torch.tensor([1.0, 0.0, 3.0, 0.0]), 1e-4)
    assert (p > 0).all() and p.sum().item() == pytest.approx(1.0)
    torch.testing.assert_close(p, torch.tensor([0.9999, 1e-4, 2.9999, 1e-4]) / 4)


@pytest.mark.parametrize(
    ("x", "threshold"),
    [
        (torch.zeros(4), 0.0),
        (torch.full((4,), 0.7), 0.7),
        (torch.tensor([1.0, math.nan]), math.nan),
        (torch.tensor([1.0, math.inf]), math.inf),
    ],
)
def test_corner_inputs(x: Tensor, threshold: float) -> None:
    found = KLMinimizerThreshold(True, BitWidthConst(8))(x)
    torch.testing.assert_close(found, torch.tensor(threshold), equal_nan=True)


def test_empty_input_and_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(0,\): expected at least one element"):
        KLMinimizerThreshold(True, BitWidthConst(8))(torch.zeros(0))
    with pytest.raises(ValueError, match="num_bins=10: expected an odd int >= 3"):
        KLMinimizerThreshold(True, BitWidthConst(8), num_bins=10)
    with pytest.raises(ValueError, match="smoothing_eps=0: expected a number > 0"):
        KLMinimizerThreshold(True, BitWidthConst(8), smoothing_eps=0)


def test_half_precision_and_compilation() -> None:
    minimizer = KLMinimizerThreshold(True, BitWidthConst(4))
    x = torch.randn(500, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(minimizer(x.to(dtype)), minimizer(x.to(dtype).float()))
    torch._dynamo.reset()
    compiled = torch.compile(minimizer, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), minimizer(x))
