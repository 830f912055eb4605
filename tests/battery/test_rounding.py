"""What holds for every way in which a layer's weight becomes integers.

A rounding joins by a row: its declaration, and its formula in plain PyTorch.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import brevitas.nn as qnn
from brevitas.inject.enum import FloatToIntImplType, LearnedRoundImplType
from brevitas.optim import SignSGD
from integer_shift import SHIFTS

BITS = 3
VALUE = "weight_quant.tensor_quant.int_quant.float_to_int_impl.value"


class Row(NamedTuple):
    """A rounding: what declares it, and integers of ``x`` with the learned values ``p``."""

    declared: dict[str, Any]
    training: Callable[[Tensor, Tensor], Tensor]
    evaluation: Callable[[Tensor, Tensor], Tensor]


def fixed(member: FloatToIntImplType, formula: Callable[[Tensor], Tensor]) -> Row:
    declared = {"weight_float_to_int_impl_type": member}
    return Row(declared, lambda x, p: formula(x), lambda x, p: formula(x))


def learned(member: LearnedRoundImplType, training: Any, evaluation: Any, **more: Any) -> Row:
    declared = {
        "weight_float_to_int_impl_type": FloatToIntImplType.LEARNED_ROUND,
        "weight_learned_round_impl_type": member,
        **more,
    }
    return Row(declared, training, evaluation)


def half_up_below_zero(x: Tensor) -> Tensor:
    return torch.where((x < 0) & (x.ceil() - x == 0.5), x.ceil(), x.round())


def up_where_positive(x: Tensor, p: Tensor) -> Tensor:
    return x.floor() + (p > 0)


def nudged(x: Tensor, p: Tensor) -> Tensor:
    return (x + p.clamp(-0.5, 0.5)).round()


def hard_sigmoid(x: Tensor, p: Tensor) -> Tensor:
    return x.floor() + (torch.sigmoid(p) * 1.2 - 0.1).clamp(0.0, 1.0)


ROWS = {
    "round": fixed(FloatToIntImplType.ROUND, torch.round),
    "ceil": fixed(FloatToIntImplType.CEIL, torch.ceil),
    "floor": fixed(FloatToIntImplType.FLOOR, torch.floor),
    "to zero": fixed(FloatToIntImplType.ROUND_TO_ZERO, torch.trunc),
    "dpu": fixed(FloatToIntImplType.DPU, half_up_below_zero),
    "hard sigmoid": learned(LearnedRoundImplType.HARD_SIGMOID, hard_sigmoid, up_where_positive),
    "sigmoid": learned(
        LearnedRoundImplType.SIGMOID,
        lambda x, p: x.floor() + torch.sigmoid(p / 0.5),
        up_where_positive,
        weight_learned_round_temperature=0.5,
    ),
    "identity": learned(LearnedRoundImplType.IDENTITY, nudged, nudged),
}
LEARNED = [name for name, row in ROWS.items() if "weight_learned_round_impl_type" in row.declared]


def build(name: str, **declared: Any) -> qnn.QuantLinear:
    torch.manual_seed(0)
    declared = {"weight_bit_width": BITS, **ROWS[name].declared, **declared}
    layer = qnn.QuantLinear(8, 4, bias=False, **declared)
    with torch.no_grad():
        for key, parameter in layer.named_parameters():
            if key == VALUE:
                parameter.copy_(torch.randn(parameter.shape))
        # Some weights lie halfway between two integers: the largest magnitude is 3 steps.
        layer.weight[0, :4] = torch.tensor([3.0, -1.5, 0.5, 2.5]) * 0.25
        layer.weight.clamp_(-0.75, 0.75)
    return layer


def learned_values(layer: qnn.QuantLinear) -> Tensor:
    return dict(layer.named_parameters()).get(VALUE, torch.zeros(4, 8)).detach()


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("per_channel", [False, True])
class TestEveryRounding:
    def test_value(self, name, per_channel):
        layer = build(name, weight_scaling_per_output_channel=per_channel)
        for mode in (True, False):
            weight = layer.train(mode).quant_weight()
            formula = ROWS[name].training if mode else ROWS[name].evaluation
            integers = formula(layer.weight.detach() / weight.scale, learned_values(layer))
            expected = integers.clamp(-3.0, 3.0) * weight.scale
            # A product of the same numbers; the stretched sigmoid rounds once more.
            torch.testing.assert_close(weight.value, expected, rtol=4e-7, atol=0)

    def test_integers_in_evaluation(self, name, per_channel):
        layer = build(name, weight_scaling_per_output_channel=per_channel).eval()
        weight = layer.quant_weight()
        assert weight.is_valid and int(weight.int().abs().max()) <= 3
        assert torch.equal(weight.value, layer.quant_weight().value)

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
    def test_copies(self, name, per_channel, copied):
        layer = build(name, weight_scaling_per_output_channel=per_channel)
        assert torch.equal(copied(layer).quant_weight().value, layer.quant_weight().value)

    def test_state(self, name, per_channel):
        layer = build(name, weight_scaling_per_output_channel=per_channel)
        assert list(layer.state_dict()) == ["weight", *([VALUE] if name in LEARNED else [])]
        fresh = build(name, weight_scaling_per_output_channel=per_channel)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.mul_(-1.0)
        fresh.load_state_dict(layer.state_dict())
        assert torch.equal(fresh.quant_weight().value, layer.quant_weight().value)


@pytest.mark.parametrize("name", ROWS)
def test_the_gradient_goes_straight_through(name):
    """At a fixed scale the weight has that of its value, also where it saturates."""
    layer = build(name, weight_scaling_impl_type="const", weight_scaling_init=3.0)
    with torch.no_grad():
        layer.weight.mul_(7.0)
    weight, factor = layer.quant_weight(), torch.randn(4, 8)
    assert float((layer.weight.detach().abs() > weight.scale * 3).sum()) > 0
    (weight.value * factor).sum().backward()
    # Multiplied by the scale after it was divided by it.
    torch.testing.assert_close(layer.weight.grad, factor, rtol=4e-7, atol=0)


@pytest.mark.parametrize("name", ["ROUND", "FLOOR", "CEIL", "ROUND_TO_ZERO", "DPU"])
def test_roundings_of_quarters_are_those_of_integer_arithmetic(name):
    """Every quarter from -8 to 8 against shifts of int64 integers: ties and signs included."""
    quarters = torch.arange(-32, 33)
    layer = qnn.QuantIdentity(
        bit_width=8,
        float_to_int_impl_type=name,
        scaling_impl_type="const",
        scaling_const=128.0,
        return_quant_tensor=True,
    )
    y = layer(quarters / 4)
    assert torch.equal(y.int().long(), SHIFTS[name](quarters, 2))


@pytest.mark.parametrize("name", LEARNED)
def test_training_the_values_makes_a_layer_more_exact(name):
    """With the weight frozen, rounding alone approaches the layer in floating point."""
    layer = build(name)
    # Inputs that rise and fall together, so that errors of opposite sign cancel.
    x = torch.randn(256, 1) + 0.2 * torch.randn(256, 8)
    target = x @ layer.weight.detach().t()
    layer.weight.requires_grad_(False)
    value = dict(layer.named_parameters())[VALUE]
    with torch.no_grad():
        value.zero_()
    nearest = qnn.QuantLinear(8, 4, bias=False, weight_bit_width=BITS).eval()
    with torch.no_grad():
        nearest.weight.copy_(layer.weight)

    def error(model: torch.nn.Module) -> float:
        with torch.no_grad():
            return float((model.eval()(x) - target).square().mean())

    # The rounding that shifts by a learned value was proposed with signs and shrinking steps.
    kind = SignSGD if name == "identity" else torch.optim.Adam
    optimizer, errors, steps = kind([value], lr=0.05), [], 200
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for _ in range(steps):
        loss = (layer.train()(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        errors.append(error(layer))
    assert min(errors) < 0.9 * error(nearest)


def stochastic(**declared: Any) -> qnn.QuantLinear:
    torch.manual_seed(0)
    declared = {"weight_float_to_int_impl_type": FloatToIntImplType.STOCHASTIC_ROUND, **declared}
    return qnn.QuantLinear(64, 64, bias=False, weight_bit_width=4, **declared)


def test_stochastic_rounding_keeps_the_mean():
    layer, draws = stochastic(), 200
    values = torch.stack([layer.quant_weight().value for _ in range(draws)]).detach()
    scale = layer.quant_weight().scale.detach()
    error = (values.mean(0) - layer.weight.detach()) / scale
    # The deviation of one draw is half a step at most; 4096 means stay within six of theirs.
    assert float(error.abs().max()) < 6 * 0.5 / draws**0.5
    distance = (values - layer.weight.detach()).abs() / scale
    assert float(distance.max()) < 1.0001


def test_stochastic_rounding_is_to_nearest_in_evaluation_unless_told_otherwise():
    layer = stochastic().eval()
    scale = layer.quant_weight().scale
    expected = (layer.weight / scale).round().clamp(-7, 7) * scale
    assert torch.equal(layer.quant_weight().value, expected)
    layer = stochastic(weight_deterministic_inference=False).eval()
    assert not torch.equal(layer.quant_weight().value, layer.quant_weight().value)


def test_stochastic_rounding_repeats_with_its_seed():
    first, second = (stochastic(weight_seed=5) for _ in range(2))
    for _ in range(3):
        assert torch.equal(first.quant_weight().value, second.quant_weight().value)
    other = stochastic(weight_seed=6)
    assert not torch.equal(first.quant_weight().value, other.quant_weight().value)
