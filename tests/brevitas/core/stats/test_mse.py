"""Scales and zero points of least squared error against a loop over all candidates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import brevitas.nn as qnn
from brevitas.core.stats import MSE, AbsMax, MSEUniformStepBase
from brevitas.quant import fixed_point, scaled_int, shifted_scaled_int
from brevitas.quant.base import MSESymmetricScaleSubInjector


def heavy_tailed(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, *shape, generator=generator)
    return x / (0.2 + y.abs())


def fake_quant(x: Tensor, scale: Tensor, low: int, high: int, zero_point: float | Tensor = 0.0):
    return ((x / scale + zero_point).round().clamp(low, high) - zero_point) * scale


def best_of(x: Tensor, candidates: Tensor, quantize) -> Tensor:
    """The candidate of least squared error, one after the other."""
    losses = [(x - quantize(c)).square().sum() for c in candidates]
    return candidates[int(torch.stack(losses).argmin())]


def weight_of(quantizer, weight: Tensor, bits: int):
    layer = qnn.QuantLinear(
        weight.shape[1], weight.shape[0], weight_quant=quantizer, weight_bit_width=bits
    )
    layer.weight.data = weight.clone()
    return layer.quant_weight()


TWENTIETHS = torch.linspace(1, 20, 20) / 20


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_scale_of_a_tensor(bits: int) -> None:
    weight, high = heavy_tailed(6, 40), 2 ** (bits - 1) - 1
    best = best_of(
        weight,
        weight.abs().max() * TWENTIETHS,
        lambda c: fake_quant(weight, c / high, -high, high),
    )
    scale = weight_of(scaled_int.Int8WeightPerTensorFloatMSE, weight, bits).scale
    torch.testing.assert_close(scale, best / high)


@pytest.mark.parametrize("bits", [3, 4])
def test_scale_of_each_channel_is_that_of_the_channel_alone(bits: int) -> None:
    weight = heavy_tailed(6, 40)
    weight[2] = 0.0
    together = weight_of(scaled_int.Int8WeightPerChannelFloatMSE, weight, bits).scale
    alone = [
        weight_of(scaled_int.Int8WeightPerTensorFloatMSE, row.unsqueeze(0), bits).scale
        for row in weight
    ]
    torch.testing.assert_close(together.flatten(), torch.stack(alone))


def test_power_of_two_scales_are_compared_after_their_restriction() -> None:
    weight, high = heavy_tailed(6, 40), 7
    exponents = (weight.abs().max() * TWENTIETHS / (high + 1)).log2().ceil()
    best = best_of(weight, exponents.exp2(), lambda s: fake_quant(weight, s, -high, high))
    scale = weight_of(fixed_point.Int8WeightPerTensorFixedPointMSE, weight, 4).scale
    torch.testing.assert_close(scale, best)


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("is_act", [False, True])
def test_zero_point_is_found_at_the_scale_that_was_found(bits: int, is_act: bool) -> None:
    x, high = heavy_tailed(6, 40), 2**bits - 1
    smallest, span = x.min(), x.max() - x.min()

    def quantize(span: Tensor, smallest: Tensor) -> Tensor:
        zero_point = (-smallest / (span / high)).round().clamp(0, high)
        return fake_quant(x, span / high, 0, high, zero_point)

    best_span = best_of(x, span * TWENTIETHS, lambda c: quantize(c, smallest))
    # From the smallest value upwards: the first of equal candidates.
    best_smallest = best_of(x, smallest * TWENTIETHS.flip(0), lambda c: quantize(best_span, c))
    if is_act:
        quantizer = shifted_scaled_int.ShiftedUint8ActPerTensorFloatMSE
        layer = qnn.QuantIdentity(act_quant=quantizer, bit_width=bits, return_quant_tensor=True)
        actual = layer(x)
    else:
        actual = weight_of(shifted_scaled_int.ShiftedUint8WeightPerTensorFloatMSE, x, bits)
    torch.testing.assert_close(actual.scale, best_span / high)
    torch.testing.assert_close(actual.value, quantize(best_span, best_smallest))


def test_the_error_is_never_above_that_of_the_full_range() -> None:
    for seed in range(5):
        weight = heavy_tailed(8, 32, seed=seed)
        errors = [
            (weight_of(quantizer, weight, 4).value - weight).square().sum(1)
            for quantizer in (
                scaled_int.Int8WeightPerChannelFloatMSE,
                scaled_int.Int8WeightPerChannelFloat,
            )
        ]
        assert (errors[0] <= errors[1]).all()


def test_scale_equivariance() -> None:
    weight = heavy_tailed(6, 40)
    one, four = (
        weight_of(scaled_int.Int8WeightPerChannelFloatMSE, factor * weight, 4).scale
        for factor in (1, 4)
    )
    assert torch.equal(4 * one, four)


@pytest.mark.parametrize("layer", [qnn.QuantConv2d, qnn.QuantConvTranspose2d])
def test_channels_of_convolutions(layer) -> None:
    quantizer = scaled_int.Int8WeightPerChannelFloatMSE
    conv = layer(3, 5, 3, weight_quant=quantizer, weight_bit_width=3)
    dim = conv.output_channel_dim
    rows = conv.weight.detach().movedim(dim, 0).flatten(1)
    conv_scale = conv.quant_weight().scale
    torch.testing.assert_close(conv_scale.flatten(), weight_of(quantizer, rows, 3).scale.flatten())
    assert conv_scale.shape[dim] == 5 and conv_scale.numel() == 5


@pytest.mark.parametrize("per_channel", [False, True])
def test_layers_of_different_shapes_share_a_scale(per_channel: bool) -> None:
    name = "Int8WeightPerChannelFloatMSE" if per_channel else "Int8WeightPerTensorFloatMSE"
    quantizer = getattr(scaled_int, name)
    first = qnn.QuantConv2d(3, 4, 3, weight_quant=quantizer, weight_bit_width=3)
    second = qnn.QuantConv2d(2, 4, 1, weight_quant=first.weight_quant)
    scale = first.quant_weight().scale
    assert torch.equal(scale, second.quant_weight().scale)
    joined = torch.cat([first.weight.flatten(1), second.weight.flatten(1)], dim=1).detach()
    torch.testing.assert_close(scale.flatten(), weight_of(quantizer, joined, 3).scale.flatten())


def test_half_precision_errors_are_summed_in_float32() -> None:
    weight = heavy_tailed(4, 512).clamp(-3, 3) * 2000
    for dtype in (torch.float16, torch.bfloat16):
        # Squares of this size are infinite in float16.
        half = weight.to(dtype)
        layer = qnn.QuantLinear(
            512,
            4,
            weight_quant=scaled_int.Int8WeightPerTensorFloatMSE,
            weight_bit_width=3,
            dtype=dtype,
        )
        layer.weight.data = half
        exact = weight_of(scaled_int.Int8WeightPerTensorFloatMSE, half.float(), 3).scale
        found = layer.quant_weight().scale
        torch.testing.assert_close(found, exact, rtol=torch.finfo(dtype).eps, atol=0.0)


class Fibonacci(scaled_int.Int8WeightPerTensorFloatMSE):
    class mse_scale(MSESymmetricScaleSubInjector):
        mse_search_method = "fibonacci"
        mse_iters = 12


def test_the_search_is_chosen_in_the_inner_declaration() -> None:
    weight = heavy_tailed(6, 40)
    found = weight_of(Fibonacci, weight, 3)
    full = weight_of(scaled_int.Int8WeightPerTensorFloat, weight, 3)
    errors = [(each.value - weight).square().sum() for each in (found, full)]
    assert errors[0] < errors[1]


class _Proxy:
    """Quantizes to nothing but the candidate."""

    is_signed, is_narrow_range = True, True

    def __init__(self) -> None:
        self.statistic = None

    def as_quantized(self, x: Tensor) -> Tensor:
        return x

    def try_quantize(self, x: Tensor):
        answer = self.statistic(x)
        return answer.unsqueeze(-1).expand_as(x), answer, 0.0, 8.0


@pytest.mark.parametrize("method", ["grid", "fibonacci"])
def test_both_signs_are_searched(method: str) -> None:
    proxy = _Proxy()
    statistic = MSE(
        proxy, AbsMax(1), torch.nn.Identity(), 40, MSEUniformStepBase(40), 1, method, True
    )
    proxy.statistic = statistic
    x = torch.tensor([[-4.0, -2.0], [1.0, 3.0]])
    found = statistic(x)
    # The mean is the best constant; the candidates are a 19th of the range apart.
    assert ((found - x.mean(1)).abs() <= x.abs().amax(1) / 19).all()
    assert statistic.evaluate_loss(x, torch.tensor([0.0, 0.0])).tolist() == [20.0, 10.0]
    assert statistic.mse_loss_fn(x, torch.zeros(2, 2)).tolist() == [20.0, 10.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mse_search_method": "binary"}, "mse_search_method='binary': expected one of"),
        ({"mse_iters": 1}, "mse_iters=1: expected an int >= 2"),
        ({"mse_iters": 3, "bipolar_search": True}, "mse_iters=3: expected an int >= 4"),
    ],
)
def test_wrong_arguments(arguments, message: str) -> None:
    given = {"mse_iters": 20, **arguments}
    with pytest.raises(ValueError, match=message):
        MSE(
            _Proxy(),
            AbsMax(),
            torch.nn.Identity(),
            mse_base_op=MSEUniformStepBase(20),
            **given,
        )


def test_no_gradient_passes_through_a_search() -> None:
    layer = qnn.QuantLinear(8, 4, weight_quant=scaled_int.Int8WeightPerTensorFloatMSE)
    layer.quant_weight().value.sum().backward()
    scale = layer.weight_quant.tensor_quant.scaling_impl.value
    assert torch.equal(layer.weight.grad, torch.ones(4, 8)) and scale.grad is not None
