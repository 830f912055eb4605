"""Half-quadratic optimization against its equations in plain PyTorch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import brevitas.nn as qnn
from brevitas.core.stats.stats_op import (
    HalfQuadraticOptimizerScale,
    HalfQuadraticOptimizerZeroPoint,
    shrink_lp_op,
)
from brevitas.quant import scaled_int, shifted_scaled_int


def shrink(x: Tensor, beta: float, p: float) -> Tensor:
    return x.sign() * (x.abs() - x.abs() ** (p - 1) / beta).clamp(min=0)


@pytest.mark.parametrize("p", [0.5, 0.7, 1.0, 2.0])
def test_shrinkage(p: float) -> None:
    x = torch.tensor([-2.0, -0.1, 0.0, 1e-6, 0.3, 5.0])
    assert torch.equal(shrink_lp_op(x, 10.0, p), shrink(x, 10.0, p))
    assert (shrink_lp_op(x, 10.0, p).abs() <= x.abs()).all()


def weights(rows: int = 4, columns: int = 64) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))


def build(quantizer, weight: Tensor, **declared):
    layer = qnn.QuantLinear(weight.shape[1], weight.shape[0], weight_quant=quantizer, **declared)
    layer.weight.data = weight.clone()
    return layer


def expected_scale(x: Tensor, bits: int, iterations: int) -> Tensor:
    """One scale of each row; all rows stop together."""
    high = 2 ** (bits - 1) - 1
    scale = best = x.abs().amax(1, keepdim=True) / high
    beta, best_error = 1e5, math.inf
    for _ in range(iterations):
        integers = (x / scale).round().clamp(-high, high)
        error = x - integers * scale
        if not error.abs().mean() < best_error:
            break
        best, best_error = scale, error.abs().mean()
        ratio = (x - shrink(error, beta, 0.7)) / integers
        scale = torch.stack([r[i != 0].median() for r, i in zip(ratio, integers, strict=True)])
        scale = scale.unsqueeze(1)
        beta *= 1.01
    return best


# Later steps change the error by its last bits, which decide where the search ends.
@pytest.mark.parametrize("iterations", [1, 2, 10])
@pytest.mark.parametrize("bits", [3, 4])
def test_scales(bits: int, iterations: int) -> None:
    layer = build(
        scaled_int.Int8WeightPerChannelFloatHQO,
        weights(),
        weight_bit_width=bits,
        weight_hqo_iters_scale=iterations,
    )
    expected = expected_scale(weights(), bits, iterations)
    torch.testing.assert_close(layer.quant_weight().scale, expected, rtol=1e-5, atol=0.0)


def expected_zero_point(x: Tensor, bits: int) -> Tensor:
    high = 2**bits - 1
    scale = (x.amax(1, keepdim=True) - x.amin(1, keepdim=True).clamp(max=0)) / high
    zero_point = best = -x.amin(1, keepdim=True).clamp(max=0) / scale
    beta, best_error = 1.0, math.inf
    for _ in range(1000):
        integers = (x / scale + zero_point).round().clamp(0, high)
        error = x - (integers - zero_point) * scale
        if not error.abs().mean() < best_error:
            break
        best, best_error = zero_point, error.abs().mean()
        zero_point = (integers - (x - shrink(error, beta, 0.5)) / scale).mean(1, keepdim=True)
        beta *= 1.01
    return best


@pytest.mark.parametrize("bits", [3, 4])
def test_zero_points(bits: int) -> None:
    layer = build(
        shifted_scaled_int.ShiftedUint8WeightPerChannelFloatHQO, weights(), weight_bit_width=bits
    )
    actual = layer.quant_weight().zero_point
    torch.testing.assert_close(actual, expected_zero_point(weights(), bits), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("quantizer", "plain"),
    [
        (scaled_int.Int8WeightPerTensorFloatHQO, scaled_int.Int8WeightPerTensorFloat),
        (
            shifted_scaled_int.ShiftedUint8WeightPerChannelFloatHQO,
            shifted_scaled_int.ShiftedUint8WeightPerChannelFloat.let(quantize_zero_point=False),
        ),
    ],
)
def test_the_mean_error_is_never_above_that_of_the_start(quantizer, plain) -> None:
    for x in (weights(), weights().abs(), -weights().abs(), weights() ** 3):
        errors = [
            (build(each, x, weight_bit_width=3).quant_weight().value - x).abs().mean()
            for each in (quantizer, plain)
        ]
        # The same value, quantized in another shape: equal up to the rounding of a mean.
        assert errors[0] <= errors[1] * (1 + 1e-6)


def test_a_channel_of_zeros_does_not_stop_the_others() -> None:
    x = weights()
    x[1] = 0.0
    declared = {"weight_bit_width": 3, "weight_hqo_iters_scale": 5}
    scale = build(scaled_int.Int8WeightPerChannelFloatHQO, x, **declared).quant_weight().scale
    start = build(scaled_int.Int8WeightPerChannelFloat, x, weight_bit_width=3).quant_weight().scale
    others = torch.tensor([0, 2, 3])
    assert (scale[others] != start[others]).all() and scale.isfinite().all()


def test_a_signed_zero_point_follows_its_range() -> None:
    class Signed(shifted_scaled_int.ShiftedUint8WeightPerTensorFloatHQO):
        signed = True

    layer = build(Signed, weights(), weight_bit_width=5)
    weight = layer.quant_weight()
    assert ((weight.value - layer.weight).abs() <= weight.scale).all()


@pytest.mark.parametrize(
    "optimizer", [HalfQuadraticOptimizerScale, HalfQuadraticOptimizerZeroPoint]
)
def test_wrong_arguments(optimizer) -> None:
    layer = qnn.QuantLinear(4, 2)
    is_scale = optimizer is HalfQuadraticOptimizerScale
    init, suffix = ("hqo_init_op_scale", "scale") if is_scale else ("hqo_init_op_zp", "zp")
    given = {
        "proxy_module": layer.weight_quant,
        init: torch.nn.Identity(),
        "keepdim": False,
        "inner_stats_input_view_shape_impl": torch.nn.Identity(),
    }
    with pytest.raises(ValueError, match="hqo_iters=0: expected an int >= 1"):
        optimizer(**given, **{f"hqo_iters_{suffix}": 0})
    with pytest.raises(ValueError, match="hqo_beta=-1: expected a number > 0"):
        optimizer(**given, **{f"hqo_beta_{suffix}": -1})
    if is_scale:
        with pytest.raises(ValueError, match="expected both or none"):
            optimizer(**given, bit_width_impl=torch.nn.Identity())


def test_on_the_meta_device() -> None:
    quantizer = scaled_int.Int8WeightPerTensorFloatHQO
    layer = qnn.QuantLinear(4, 2, bias=False, weight_quant=quantizer, device="meta")
    assert layer.quant_weight().value.is_meta
