"""Searches against plain loops, and statistics that are tried without a trace."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import brevitas.nn as qnn
from brevitas.core.quant.delay import _DelayQuant
from brevitas.core.stats import MSE
from brevitas.core.stats._search import SearchedStatistic, mse_fib_search, mse_grid_search
from brevitas.inject.enum import ScalingImplType
from brevitas.quant import scaled_int, shifted_scaled_int


def wavy(x: Tensor) -> Tensor:
    return (3 * x).sin() + 0.3 * x * x


def steps(x: Tensor) -> Tensor:
    return (3 * wavy(x)).round()


@pytest.fixture
def ends() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(50, generator=generator)
    return low, low + 4 * torch.rand(50, generator=generator)


@pytest.mark.parametrize("loss", [wavy, steps])
@pytest.mark.parametrize("number", [2, 3, 20])
def test_grid_finds_the_first_of_the_best(loss, number: int, ends: tuple[Tensor, Tensor]) -> None:
    low, high = ends
    candidates = low + torch.linspace(0, 1, number).unsqueeze(1) * (high - low)
    best, best_loss = mse_grid_search(low, high, loss, number)
    losses = loss(candidates)
    assert torch.equal(best_loss, losses.amin(0))
    # argmin over positions: the first one of equal loss.
    first = (losses == losses.amin(0)).int().argmax(0)
    assert torch.equal(best, candidates.gather(0, first.unsqueeze(0))[0])


@pytest.mark.parametrize("number", [2, 3, 4, 5, 12, 20])
def test_fibonacci_closes_in_on_a_single_minimum(number: int, ends: tuple[Tensor, Tensor]) -> None:
    low, high = (end.double() for end in ends)
    minimum = low + 0.377 * (high - low)
    best, loss = mse_fib_search(low, high, lambda x: (x - minimum).abs(), number)
    fibonacci = [0, 1]
    while len(fibonacci) <= number:
        fibonacci.append(sum(fibonacci[-2:]))
    # The last interval is one part of as many as the last Fibonacci number.
    bound = (high - low) / fibonacci[-1] * (1 + 1e-9)
    assert ((best - minimum).abs() <= bound).all() and torch.equal(loss, (best - minimum).abs())


def test_fibonacci_keeps_one_of_two_points_and_both_ends_move_at_a_tie() -> None:
    tried: list[float] = []

    def constant(x: Tensor) -> Tensor:
        tried.append(round(x.item(), 4))
        return torch.zeros_like(x)

    low, high = torch.tensor(0.0), torch.tensor(1.0)
    best, _ = mse_fib_search(low, high, constant, 5)
    assert tried == [0.4, 0.6, 0.48, 0.52, 0.4933, 0.5067, 0.5, 0.5]
    assert best.item() == pytest.approx(0.5)
    tried.clear()
    mse_fib_search(low, high, lambda x: constant(x) + x, 5)
    assert tried == [0.4, 0.6, 0.2, 0.4, 0.2, 0.2, 0.0, 0.2]


@pytest.mark.parametrize("search", [mse_fib_search, mse_grid_search])
@pytest.mark.parametrize("number", [1, 2.0, True])
def test_too_few_candidates_are_refused(search, number) -> None:
    with pytest.raises(ValueError, match=r"num_iter=.*expected an int >= 2"):
        search(torch.tensor(0.0), torch.tensor(1.0), wavy, number)


@pytest.mark.parametrize("search", [mse_fib_search, mse_grid_search])
def test_losses_that_are_not_numbers_give_a_candidate(search) -> None:
    best, _ = search(torch.tensor(1.0), torch.tensor(2.0), lambda x: x * math.nan, 5)
    assert 1 <= best.item() <= 2


def test_a_proxy_is_required() -> None:
    with pytest.raises(TypeError, match="proxy_module=None: expected the proxy of the quantizer"):
        MSE(None, torch.nn.Identity(), torch.nn.Identity(), 20, torch.nn.Identity())


# A search leaves no trace ------------------------------------------------------------------------


def statistics(module: torch.nn.Module) -> list[SearchedStatistic]:
    return [part for part in module.modules() if isinstance(part, SearchedStatistic)]


def test_trials_neither_collect_nor_count() -> None:
    layer = qnn.QuantIdentity(act_quant=shifted_scaled_int.ShiftedUint8ActPerTensorFloatMSE)
    tensor_quant = layer.act_quant.fused_activation_quant_proxy.tensor_quant
    for steps_taken in (1, 2):
        layer(torch.randn(4, 5))
        parts = (tensor_quant.scaling_impl, tensor_quant.zero_point_impl)
        assert [part.counter for part in parts] == [steps_taken, steps_taken]


def test_trials_do_not_enter_a_moving_average() -> None:
    class Quantizer(scaled_int.Int8ActPerTensorFloatMSE):
        scaling_impl_type = ScalingImplType.STATS

    layer, x = qnn.QuantIdentity(act_quant=Quantizer, return_quant_tensor=True), torch.randn(4, 5)
    stats = layer.act_quant.fused_activation_quant_proxy.tensor_quant.scaling_impl.runtime_stats
    scale = layer(x).scale
    assert stats.counter == 1 and torch.equal(stats.running_stats / 128, scale)


def test_trials_see_quantized_values_during_a_delay() -> None:
    quantizer = scaled_int.Int8WeightPerTensorFloatMSE
    torch.manual_seed(0)
    weight = torch.randn(8, 4)
    scales = []
    for delay in (0, 3):
        layer = qnn.QuantLinear(
            4, 8, weight_quant=quantizer, weight_bit_width=3, weight_quant_delay_steps=delay
        )
        layer.weight.data = weight
        scales.append(layer.quant_weight().scale)
    assert torch.equal(*scales)
    delays = [part for part in layer.modules() if isinstance(part, _DelayQuant)]
    assert [part.quant_delay_steps for part in delays] == [2]


def test_the_activation_function_is_not_applied_to_candidates() -> None:
    calls = []

    class Tanh(torch.nn.Tanh):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(x)
            return super().forward(x)

    layer = qnn.QuantIdentity(act_quant=scaled_int.Int8ActPerTensorFloatMSE)
    layer.act_quant.fused_activation_quant_proxy.activation_impl = Tanh()
    layer(torch.randn(4))
    assert len(calls) == 1


def test_a_proxy_is_no_child_and_follows_a_copy() -> None:
    import copy

    layer = qnn.QuantLinear(4, 2, weight_quant=scaled_int.Int8WeightPerTensorFloatMSE)
    other = copy.deepcopy(layer)
    (statistic,) = statistics(other)
    assert statistic.quantizer is other.weight_quant
    assert not any("proxy" in name for name, _ in other.named_modules())


def test_no_element_is_refused() -> None:
    layer = qnn.QuantIdentity(act_quant=scaled_int.Int8ActPerTensorFloatMSE)
    with pytest.raises(ValueError, match=r"shape \(0, 3\): expected at least one element"):
        layer(torch.zeros(0, 3))


# One operator to a compiler ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "quantizer",
    [
        shifted_scaled_int.ShiftedUint8WeightPerChannelFloatMSE,
        scaled_int.Int8WeightPerTensorFloatHQO,
    ],
)
def test_a_compiled_layer_finds_the_same(quantizer) -> None:
    torch.manual_seed(0)
    layer = qnn.QuantLinear(8, 4, weight_quant=quantizer, weight_bit_width=3)
    other = qnn.QuantLinear(8, 4, weight_quant=quantizer, weight_bit_width=3)
    other.weight.data.copy_(layer.weight.data)
    torch._dynamo.reset()
    compiled = torch.compile(lambda: other.quant_weight(), fullgraph=True, backend="aot_eager")
    for _ in range(2):
        expected, actual = layer.quant_weight(), compiled()
        for name in ("value", "scale", "zero_point"):
            torch.testing.assert_close(getattr(actual, name), getattr(expected, name))


def test_a_compiled_activation_collects_and_learns_in_two_graphs() -> None:
    quantizer = shifted_scaled_int.ShiftedUint8ActPerTensorFloatMSE
    layers = [
        qnn.QuantIdentity(act_quant=quantizer, collect_stats_steps=2, bit_width=3) for _ in range(2)
    ]
    graphs = []

    def counting(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(layers[1], fullgraph=True, backend=counting)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        x = torch.randn(3, 20, generator=generator)
        torch.testing.assert_close(compiled(x), layers[0](x))
    assert len(graphs) == 2


def test_a_scale_is_tried_with_the_zero_point_of_the_batch_before() -> None:
    quantizer = shifted_scaled_int.ShiftedUint8ActPerTensorFloatMSE
    layer = qnn.QuantIdentity(
        act_quant=quantizer, bit_width=4, collect_stats_steps=3, return_quant_tensor=True
    )
    # Numbers of Brevitas 0.13.4 for the same batches.
    for seed, scale, zero_point in [(100, 0.67480, 8.0), (101, 0.67140, 7.0), (102, 0.65307, 7.0)]:
        x = torch.randn(4, 32, 3, 3, generator=torch.Generator().manual_seed(seed)) * 2
        y = layer(x)
        torch.testing.assert_close(y.scale, torch.tensor(scale), rtol=0.0, atol=1e-5)
        assert y.zero_point == zero_point


def test_a_result_that_does_not_fit_is_not_held() -> None:
    quantizer = shifted_scaled_int.ShiftedUint8ActPerTensorFloatMSE
    layer = qnn.QuantIdentity(act_quant=quantizer, return_quant_tensor=True)
    expected = layer(torch.tensor([-1.0, 2.0])).scale
    again = qnn.QuantIdentity(act_quant=quantizer, return_quant_tensor=True)
    searches = [part for part in again.modules() if isinstance(part, SearchedStatistic)]
    assert len(searches) == 2
    for part in searches:
        part.found = torch.ones(3)
    assert torch.equal(again(torch.tensor([-1.0, 2.0])).scale, expected)
