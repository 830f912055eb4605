"""Pre-scales: the formulas, and the accumulator that no weight and no input can make overflow.

For integer weights, and inputs between ``low`` and ``high``, the extreme dot products are known: an
input of ``high`` meets each positive weight and one of ``low`` each negative one, or the reverse.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import brevitas.nn as qnn
from brevitas.core.bit_width import BitWidthStatefulConst
from brevitas.core.function_wrapper import OverOutputChannelView
from brevitas.core.restrict_val import LogFloatRestrictValue
from brevitas.core.scaling import (
    AccumulatorAwareParameterPreScaling,
    AccumulatorAwareZeroCenterParameterPreScaling,
    ParameterPreScalingWeightNorm,
    ParameterScaling,
)
from brevitas.core.stats import L1Norm, L2Norm
from brevitas.core.zero_point import PreZeroCenterZeroPoint
from brevitas.quant import (
    Int8AccumulatorAwareWeightQuant,
    Int8AccumulatorAwareZeroCenterWeightQuant,
    Int8WeightNormL2PerChannelFixedPoint,
)

AWARE = [Int8AccumulatorAwareWeightQuant, Int8AccumulatorAwareZeroCenterWeightQuant]
#: Bits and sign of an input.
FORMATS = [(1, False), (2, True), (4, False), (8, True), (8, False)]


def input_range(bits: int, signed: bool) -> tuple[float, float]:
    return (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)


def accumulator_range(bits: int) -> tuple[float, float]:
    return -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1


def extremes(integers: Tensor, bits: int, signed: bool) -> tuple[Tensor, Tensor]:
    """Smallest and largest dot product of each row with any input, exact in 64 bits."""
    low, high = input_range(bits, signed)
    positive, negative = integers.double().clamp(min=0), integers.double().clamp(max=0)
    sums = positive.flatten(1).sum(1), negative.flatten(1).sum(1)
    return low * sums[0] + high * sums[1], high * sums[0] + low * sums[1]


def integers_of(tensor_quant: Any, weight: Tensor, bits: int, signed: bool) -> Tensor:
    """The integers themselves, read before they are scaled."""
    found: list[Tensor] = []
    part = tensor_quant.decoupled_int_quant.tensor_clamp_impl
    handle = part.register_forward_hook(lambda *call: found.append(call[2].detach()))
    value = tensor_quant(weight, torch.tensor(float(bits)), signed)[0]
    handle.remove()
    fused = tensor_quant(weight, torch.tensor(float(bits)), signed)[0]
    assert torch.equal(value, fused)  # the integers of both ways
    return found[0]


def assert_fits(integers: Tensor, bits: int, signed: bool, accumulator: int) -> None:
    lowest, highest = accumulator_range(accumulator)
    smallest, largest = extremes(integers, bits, signed)
    assert smallest.min() >= lowest and largest.max() <= highest
    assert integers.isfinite().all() and torch.equal(integers, integers.round())


def quantizer_of(
    weight_quant: Any, weight: Tensor, accumulator: int, dtype: torch.dtype = torch.float32
) -> tuple[Any, Tensor]:
    layer = qnn.QuantLinear(
        weight.shape[1],
        weight.shape[0],
        bias=False,
        weight_quant=weight_quant,
        weight_accumulator_bit_width=accumulator,
    ).to(dtype)
    layer.weight = nn.Parameter(weight.to(dtype))
    return layer.weight_quant.tensor_quant, layer.weight


# Weights that are made to overflow ---------------------------------------------------------------


def _random(n: int) -> Tensor:
    return torch.randn(2, n, generator=torch.Generator().manual_seed(n))


def _one_hot(n: int) -> Tensor:
    weight = torch.zeros(2, n)
    weight[0, 0], weight[1, n - 1] = 1.0, -1e30
    return weight


def _whole_numbers(total: int) -> Callable[[int], Tensor]:
    """Whole numbers of a given sum: their share of the cap is whole but for the last place."""

    def weights(n: int) -> Tensor:
        share, rest = divmod(total, n)
        row = torch.full((n,), float(share)) + (torch.arange(n) < rest)
        return torch.stack([row, -row])

    return weights


WEIGHTS: dict[str, Callable[[int], Tensor]] = {
    "random": _random,
    "heavy tails": lambda n: _random(n) ** 5,
    "zeros": lambda n: torch.zeros(2, n),
    "one": _one_hot,
    "equal": lambda n: torch.full((2, n), 0.3),
    "equal magnitudes": lambda n: 0.7 * (-1.0) ** torch.arange(n).expand(2, n),
    "one against all": lambda n: torch.where(torch.arange(n) == 0, -1.0, 1.0 / n).expand(2, n),
    "tiny": lambda n: _random(n) * 1e-30,
    "below normal": lambda n: _random(n) * 1e-42,
    "huge": lambda n: _random(n) * 1e37,
    "infinite norm": lambda n: torch.full((2, n), 3e38),
    "far from zero": lambda n: 1000.0 + _random(n) * 1e-3,
    "equal but for one": lambda n: torch.where(torch.arange(n) == 1, 5.0, 5.0 + 1e-6).expand(2, n),
    "decreasing": lambda n: (2.0 ** -torch.arange(n)).expand(2, n) * torch.tensor([[1.0], [-1.0]]),
    "whole, 256": _whole_numbers(256),
    "whole, 4096": _whole_numbers(4096),
    "halves": lambda n: torch.full((2, n), 0.5) + torch.arange(n) % 2,
}


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("weight_quant", AWARE)
def test_no_weight_and_no_input_overflow(weight_quant: Any, kind: str) -> None:
    for size in (1, 64, 1500):
        for accumulator in (2, 12, 16, 20, 32):
            tensor_quant, weight = quantizer_of(weight_quant, WEIGHTS[kind](size), accumulator)
            pre_scaling = tensor_quant.pre_scaling_impl
            for target in (None, 40.0):
                if target is not None:
                    pre_scaling.value.data.fill_(target)
                for bits, signed in FORMATS:
                    integers = integers_of(tensor_quant, weight, bits, signed)
                    assert_fits(integers, bits, signed, accumulator)


@pytest.mark.parametrize("weight_quant", AWARE)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["random", "equal", "far from zero", "whole, 256", "halves"])
def test_no_overflow_in_any_dtype(weight_quant: Any, dtype: torch.dtype, kind: str) -> None:
    for size in (3, 400):
        for accumulator in (9, 12, 16):
            tensor_quant, weight = quantizer_of(
                weight_quant, WEIGHTS[kind](size), accumulator, dtype
            )
            tensor_quant.pre_scaling_impl.value.data.fill_(15.0)
            for bits, signed in FORMATS:
                integers = integers_of(tensor_quant, weight, bits, signed)
                assert_fits(integers, bits, signed, accumulator)


@pytest.mark.parametrize("weight_quant", AWARE)
def test_no_overflow_where_the_cap_has_more_digits_than_a_float(weight_quant: Any) -> None:
    """``(2**31 - 1) / 2**7`` rounds up to ``2**24``: weights that sum up to it are one too many."""
    tensor_quant, weight = quantizer_of(weight_quant, _whole_numbers(2**24)(200_000), 32)
    tensor_quant.pre_scaling_impl.value.data.fill_(40.0)
    for bits, signed in FORMATS:
        assert_fits(integers_of(tensor_quant, weight, bits, signed), bits, signed, 32)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(AWARE),
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=24),
    st.integers(2, 20),
    st.integers(1, 8),
    st.booleans(),
    st.floats(-8.0, 12.0, width=32),
    st.floats(-20.0, 4.0, width=32),
)
def test_no_overflow_whatever_is_learned(
    weight_quant: Any,
    row: list[float],
    accumulator: int,
    bits: int,
    signed: bool,
    target: float,
    scale: float,
) -> None:
    weight = torch.tensor([row])
    tensor_quant, weight = quantizer_of(weight_quant, weight, accumulator)
    tensor_quant.pre_scaling_impl.value.data.fill_(target)
    tensor_quant.pre_scaling_impl.scaling_impl.value.data.fill_(scale)
    assert_fits(integers_of(tensor_quant, weight, bits, signed), bits, signed, accumulator)


LAYERS: dict[str, tuple[type[nn.Module], tuple[int, ...], dict[str, Any], tuple[int, ...]]] = {
    "linear": (qnn.QuantLinear, (40, 4), {}, (2, 40)),
    "conv1d": (qnn.QuantConv1d, (4, 6, 3), {"padding": 1}, (1, 4, 7)),
    "conv2d": (qnn.QuantConv2d, (4, 6, 3), {}, (1, 4, 5, 5)),
    "grouped": (qnn.QuantConv2d, (4, 6, 3), {"groups": 2, "padding": 1}, (1, 4, 5, 5)),
    "depthwise": (qnn.QuantConv2d, (4, 4, 3), {"groups": 4}, (1, 4, 5, 5)),
    "transposed": (qnn.QuantConvTranspose2d, (4, 6, 3), {}, (1, 4, 5, 5)),
    "transposed, grouped": (
        qnn.QuantConvTranspose2d,
        (4, 6, 3),
        {"groups": 2, "stride": 2},
        (1, 4, 5, 5),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("weight_quant", AWARE)
@pytest.mark.parametrize("accumulator", [9, 12, 16])
def test_the_worst_input_of_every_layer_fits(
    name: str, weight_quant: Any, accumulator: int
) -> None:
    """The layer's own operation on integers, with the input that is worst for each output."""
    kind, arguments, keywords, shape = LAYERS[name]
    torch.manual_seed(0)
    layer: Any = kind(
        *arguments,
        **keywords,
        bias=False,
        weight_quant=weight_quant,
        weight_accumulator_bit_width=accumulator,
    )
    tensor_quant = layer.weight_quant.tensor_quant
    tensor_quant.pre_scaling_impl.value.data.fill_(30.0)
    largest_seen = 0.0
    for bits, signed in FORMATS:
        low, high = input_range(bits, signed)
        integers = integers_of(tensor_quant, layer.weight, bits, signed).double()
        x = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
        outputs = layer.inner_forward_impl(x, integers, None).flatten()
        lowest, highest = accumulator_range(accumulator)
        for index in range(0, outputs.numel(), 3):
            (seen,) = torch.autograd.grad(outputs[index], x, retain_graph=True)
            for best, worst in ((high, low), (low, high)):
                extreme = torch.where(seen > 0, best, worst).double() * (seen != 0)
                total = float(layer.inner_forward_impl(extreme, integers, None).flatten()[index])
                assert lowest <= total <= highest
                largest_seen = max(largest_seen, abs(total) / highest)
    # The bound is close, where an output sums all that the norm of its channel counts.
    assert largest_seen > 0.25 / getattr(layer, "groups", 1)


@pytest.mark.parametrize("weight_quant", AWARE)
def test_rounding_to_nearest_would_overflow(weight_quant: Any) -> None:
    """Equal magnitudes that all round up."""
    nearest = weight_quant.let(float_to_int_impl_type="round", float_to_int_impl=None)
    weight = WEIGHTS["equal magnitudes"](160)
    overflows = []
    for quantizer in (weight_quant, nearest):
        tensor_quant, parameter = quantizer_of(quantizer, weight, 16)
        tensor_quant.pre_scaling_impl.value.data.fill_(30.0)
        found = []
        for bits, signed in FORMATS:
            integers = integers_of(tensor_quant, parameter, bits, signed)
            smallest, largest = extremes(integers, bits, signed)
            lowest, highest = accumulator_range(16)
            found.append(bool(smallest.min() < lowest or largest.max() > highest))
        overflows.append(any(found))
    assert overflows == [False, True]


@pytest.mark.parametrize("weight_quant", AWARE)
@pytest.mark.parametrize(("bits", "signed"), FORMATS)
def test_the_cap_is_made_use_of(weight_quant: Any, bits: int, signed: bool) -> None:
    """Rounding towards zero takes less than one from each magnitude, and nothing else does."""
    size, accumulator = 64, 14
    tensor_quant, weight = quantizer_of(weight_quant, _random(size), accumulator)
    pre_scaling = tensor_quant.pre_scaling_impl
    pre_scaling.value.data.fill_(30.0)
    wide = copy.deepcopy(tensor_quant)
    wide.msb_clamp_bit_width_impl = BitWidthStatefulConst(24)
    cap = float(pre_scaling.calc_max_l1_norm(torch.tensor(float(bits)), signed))
    sums = integers_of(wide, weight, bits, signed).abs().sum(1)
    assert (sums <= cap).all() and (sums >= cap * (1 - 1e-5) - size).all()


# Formulas ----------------------------------------------------------------------------------------


def parts(weight: Tensor, norm: nn.Module, accumulator: int | None = None) -> dict[str, Any]:
    shape = (weight.shape[0], 1)
    found = {
        "scaling_impl": ParameterScaling(0.1, shape),
        "normalize_stats_impl": norm,
        "scaling_stats_input_view_shape_impl": OverOutputChannelView(),
        "tracked_parameter_list": [weight],
        "pre_scaling_shape": shape,
    }
    if accumulator is not None:
        found["accumulator_bit_width_impl"] = BitWidthStatefulConst(accumulator)
        found["restrict_pre_scaling_impl"] = LogFloatRestrictValue()
    return found


def test_weight_norm_is_scale_times_norm_over_target() -> None:
    weight = nn.Parameter(_random(7))
    pre_scaling = ParameterPreScalingWeightNorm(**parts(weight, L2Norm(1)))
    norm = weight.detach().norm(dim=1, keepdim=True)
    torch.testing.assert_close(pre_scaling.value.detach(), norm)
    torch.testing.assert_close(pre_scaling(weight).detach(), torch.full((2, 1), 0.1))
    pre_scaling.value.data.mul_(2)
    torch.testing.assert_close(pre_scaling(3 * weight).detach(), torch.full((2, 1), 0.15))


def test_normalized_weights_have_the_target_as_their_norm() -> None:
    layer = qnn.QuantLinear(50, 3, weight_quant=Int8WeightNormL2PerChannelFixedPoint)
    target = layer.weight_quant.tensor_quant.pre_scaling_impl.value
    layer.weight.data.mul_(torch.tensor([[1.0], [100.0], [1e-3]]))
    norm = layer.quant_weight().value.norm(dim=1, keepdim=True)
    # Each of 50 values is off by half a step, one of 127 in the largest value.
    torch.testing.assert_close(norm, target, rtol=0.5 * 50**0.5 / 127, atol=0)


def test_weight_norm_has_the_gradient_of_its_formula() -> None:
    weight = _random(5).double().requires_grad_()
    pre_scaling = ParameterPreScalingWeightNorm(**parts(weight, L2Norm(1))).double()
    pre_scaling(weight).sum().backward()
    expected = weight.detach().clone().requires_grad_()
    target = pre_scaling.value.detach().clone().requires_grad_()
    stored = pre_scaling.scaling_impl.value.detach().clone().requires_grad_()
    (stored.abs() * expected.norm(dim=1, keepdim=True) / target).sum().backward()
    pairs = [
        (weight, expected),
        (pre_scaling.value, target),
        (pre_scaling.scaling_impl.value, stored),
    ]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize(("bits", "signed"), FORMATS)
@pytest.mark.parametrize("accumulator", [2, 12, 16, 32])
def test_largest_norms(bits: int, signed: bool, accumulator: int) -> None:
    weight = _random(4)
    given = parts(weight, L1Norm(1), accumulator)
    aware = AccumulatorAwareParameterPreScaling(**given)
    center = PreZeroCenterZeroPoint(1, OverOutputChannelView())
    centered = AccumulatorAwareZeroCenterParameterPreScaling(pre_zero_point_impl=center, **given)
    width = torch.tensor(float(bits))
    # A sum of 32 bits has more digits than a float.
    expected = (2 ** (accumulator - 1) - 1) / 2 ** (bits - signed)
    assert aware.calc_max_l1_norm(width, signed).item() == pytest.approx(expected, rel=1e-7)
    expected = (2**accumulator - 2) / (2**bits - 1)
    assert centered.calc_max_l1_norm(width, signed).item() == pytest.approx(expected, rel=1e-7)


def test_target_is_capped_and_its_gradient_with_it() -> None:
    weight = nn.Parameter(_random(6))
    pre_scaling = AccumulatorAwareParameterPreScaling(**parts(weight, L1Norm(1), 12))
    norm, cap = weight.detach().abs().sum(1, keepdim=True), 0.1 * (2**11 - 1) / 2**8
    width = torch.tensor(8.0)
    for exponent, target in ((-3.0, 0.125), (9.0, cap)):
        pre_scaling.zero_grad()
        pre_scaling.value.data.fill_(exponent)
        pre_scale = pre_scaling(weight, width, False)
        # The bound of all roundings, about 4e-6 in 32 bits.
        torch.testing.assert_close(pre_scale.detach(), 0.1 * norm / target, rtol=1e-5, atol=0)
        pre_scale.sum().backward()
        assert pre_scaling.value.grad.ne(0).all() == (target == 0.125)
    assert torch.equal(pre_scaling.inner_forward(weight, width, False), pre_scale)


def test_centered_norm_is_that_of_the_weight_without_its_mean() -> None:
    weight = nn.Parameter(_random(6) + 0.5)
    center = PreZeroCenterZeroPoint(1, OverOutputChannelView())
    pre_scaling = AccumulatorAwareZeroCenterParameterPreScaling(
        pre_zero_point_impl=center, **parts(weight, L1Norm(1), 12)
    )
    pre_scaling.value.data.fill_(-3.0)
    shifted = weight.detach() - weight.detach().mean(1, keepdim=True)
    expected = 0.1 * shifted.abs().sum(1, keepdim=True) / 0.125
    actual = pre_scaling(weight, torch.tensor(8.0), True).detach()
    torch.testing.assert_close(actual, expected, rtol=2e-5, atol=0)


# Corners -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight_quant", [*AWARE, Int8WeightNormL2PerChannelFixedPoint])
def test_a_channel_of_zeros_stays_zero_and_learns(weight_quant: Any) -> None:
    """It has no norm to give, but nothing is divided by zero, forward or backward."""
    layer = qnn.QuantLinear(6, 2, weight_quant=weight_quant)
    layer.weight = nn.Parameter(torch.stack([torch.zeros(6), _random(6)[0]]))
    arguments = () if "Norm" in weight_quant.__name__ else (torch.tensor(8.0), True)
    value = layer.weight_quant.tensor_quant(layer.weight, *arguments)[0]
    assert torch.equal(value[0], torch.zeros(6)) and value.isfinite().all()
    (value * torch.arange(1.0, 7.0)).sum().backward()
    gradients = {name: p.grad for name, p in layer.named_parameters() if name != "bias"}
    assert all(grad.isfinite().all() for grad in gradients.values())
    assert gradients["weight"][0].abs().max() < 100 and gradients["weight"][0].any()


def test_several_weights_are_refused() -> None:
    first = qnn.QuantLinear(4, 3, weight_quant=Int8WeightNormL2PerChannelFixedPoint)
    with pytest.raises(ValueError, match="holds 2 weights: expected one, whose norm is learned"):
        qnn.QuantLinear(4, 3, weight_quant=first.weight_quant)
    assert first.quant_weight().value.shape == (3, 4)
    assert len(first.weight_quant.tracked_module_list) == 1


def test_an_accumulator_of_one_bit_is_refused() -> None:
    with pytest.raises(ValueError, match="accumulator_bit_width=1: expected at least 2 bits"):
        qnn.QuantLinear(
            4,
            3,
            weight_quant=Int8AccumulatorAwareWeightQuant,
            weight_accumulator_bit_width=1,
        )


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("weight_quant", AWARE)
def test_copies_and_checkpoints(weight_quant: Any, copied: Callable[[Any], Any]) -> None:
    tensor_quant, weight = quantizer_of(weight_quant, _random(9), 16)
    tensor_quant.pre_scaling_impl.value.data.sub_(0.5)
    width = torch.tensor(8.0)
    expected = tensor_quant(weight, width, True)
    other, _ = quantizer_of(weight_quant, 2 * _random(9), 12)
    other.load_state_dict(tensor_quant.state_dict())
    for same in (copied(tensor_quant), other):
        outputs = same(weight, width, True)
        assert all(torch.equal(*pair) for pair in zip(outputs, expected, strict=True))
