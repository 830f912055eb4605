"""Decoupled weight quantizers against their formulas on a layer's weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import brevitas.nn as qnn
from brevitas import config
from brevitas.common import QuantLayerConfigurationError
from brevitas.graph.calibrate import calibration_mode
from brevitas.quant import (
    Fp8e4m3ActPerTensorFloat,
    Int4WeightPerTensorFloatDecoupled,
    Int8AccumulatorAwareWeightQuant,
    Int8AccumulatorAwareZeroCenterWeightQuant,
    Int8ActPerTensorFloat,
    Int8WeightNormL2PerChannelFixedPoint,
    Int8WeightPerChannelFloatDecoupled,
    Int32Bias,
    Uint8ActPerTensorFloat,
)
from brevitas.quant.fixed_point import Int4WeightPerTensorFixedPointDecoupled

AWARE = [Int8AccumulatorAwareWeightQuant, Int8AccumulatorAwareZeroCenterWeightQuant]
DECOUPLED = [
    Int4WeightPerTensorFixedPointDecoupled,
    Int4WeightPerTensorFloatDecoupled,
    Int8WeightNormL2PerChannelFixedPoint,
    Int8WeightPerChannelFloatDecoupled,
    *AWARE,
]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _largest(weight: Tensor, channel: int) -> Tensor:
    others = [dim for dim in range(weight.dim()) if dim != channel]
    return weight.detach().abs().amax(others, keepdim=True)


LAYERS: dict[str, tuple[Callable[..., Any], int]] = {
    "linear": (lambda **kw: qnn.QuantLinear(6, 4, **kw), 0),
    "conv": (lambda **kw: qnn.QuantConv2d(3, 4, 3, **kw), 0),
    "transposed": (lambda **kw: qnn.QuantConvTranspose2d(3, 4, 3, **kw), 1),
}


@pytest.mark.parametrize("name", LAYERS)
def test_scales_start_from_the_pre_scales(name: str) -> None:
    build, channel = LAYERS[name]
    for quantizer in (Int8WeightPerChannelFloatDecoupled, Int8WeightNormL2PerChannelFixedPoint):
        layer = build(weight_quant=quantizer)
        expected = _largest(layer.weight, channel) / 127
        torch.testing.assert_close(layer.quant_weight().scale.detach(), expected)
        torch.testing.assert_close(layer.weight_quant.pre_scale().detach(), expected)
    for quantizer, steps in (
        (Int4WeightPerTensorFloatDecoupled, 7),
        (Int4WeightPerTensorFixedPointDecoupled, 8),
    ):
        layer = build(weight_quant=quantizer)
        expected = _largest(layer.weight, channel).square().mean().sqrt()
        if steps == 8:
            expected = expected.log2().ceil().exp2()
        torch.testing.assert_close(layer.quant_weight().scale.detach(), expected / steps)
        torch.testing.assert_close(layer.weight_quant.pre_scale().detach(), expected / steps)


@pytest.mark.parametrize("quantizer", DECOUPLED, ids=lambda q: q.__name__)
def test_a_learned_scale_moves_values_and_no_integer(quantizer: Any) -> None:
    layer = qnn.QuantLinear(6, 4, weight_quant=quantizer, input_quant=Int8ActPerTensorFloat)
    before = layer.quant_weight()
    value = layer.weight_quant.tensor_quant.scaling_impl.value
    # By 2, in the domain in which the scale is stored.
    value.data = value.data * 2 if "Float" in quantizer.__name__ else value.data + 1
    after = layer.quant_weight()
    torch.testing.assert_close(after.scale, 2 * before.scale)
    assert torch.equal(after.int(), before.int())


def test_bits_of_a_weight_that_is_normalized() -> None:
    layer = qnn.QuantLinear(
        6, 4, weight_quant=Int8WeightNormL2PerChannelFixedPoint, weight_bit_width=4
    )
    expected = _largest(layer.weight, 0) / 7
    torch.testing.assert_close(layer.quant_weight().scale.detach(), expected)


def test_one_scale_behind_a_pre_scale_per_channel() -> None:
    layer = qnn.QuantLinear(
        6,
        4,
        weight_quant=Int8WeightNormL2PerChannelFixedPoint,
        weight_scaling_per_output_type="tensor",
    )
    scale = layer.quant_weight().scale
    torch.testing.assert_close(scale.detach(), layer.weight.detach().abs().max() / 127)
    assert scale.shape == () and layer.weight_quant.pre_scale().shape == (4, 1)


def test_scales_inside_and_outside_of_the_norm_are_two_parameters() -> None:
    layer = qnn.QuantLinear(6, 4, weight_quant=Int8AccumulatorAwareWeightQuant)
    tensor_quant = layer.weight_quant.tensor_quant
    inside, outside = tensor_quant.pre_scaling_impl.scaling_impl, tensor_quant.scaling_impl
    assert inside.value is not outside.value and torch.equal(inside.value, outside.value)


def test_quantizers_share_no_module() -> None:
    quantizers = (Int8WeightNormL2PerChannelFixedPoint, Int8AccumulatorAwareWeightQuant)
    layers = [qnn.QuantLinear(6, 4, weight_quant=quantizer) for quantizer in quantizers]
    first, second = ({id(m) for m in layer.weight_quant.modules()} for layer in layers)
    assert not first & second


def test_shared_by_two_layers() -> None:
    first = qnn.QuantLinear(6, 4, weight_quant=Int8WeightPerChannelFloatDecoupled)
    second = qnn.QuantLinear(6, 4, weight_quant=first.weight_quant)
    largest = torch.maximum(_largest(first.weight, 0), _largest(second.weight, 0))
    for layer in (first, second):
        torch.testing.assert_close(layer.quant_weight().scale.detach(), largest / 127)


# The input ---------------------------------------------------------------------------------------


def aware(weight_quant: Any = Int8AccumulatorAwareWeightQuant, **keywords: Any) -> Any:
    layer = qnn.QuantLinear(
        64, 4, weight_quant=weight_quant, weight_accumulator_bit_width=14, **keywords
    )
    layer.weight_quant.tensor_quant.pre_scaling_impl.value.data.fill_(30.0)
    return layer


def total(weight: Any) -> float:
    """Largest sum of magnitudes of a row's integers."""
    return float(weight.int().long().abs().sum(1).max())


@pytest.mark.parametrize("weight_quant", AWARE)
def test_fewer_bits_of_the_input_leave_more_for_the_weight(weight_quant: Any) -> None:
    sums = [
        total(
            aware(
                weight_quant, input_quant=Uint8ActPerTensorFloat, input_bit_width=bits
            ).quant_weight()
        )
        for bits in (8, 6, 4)
    ]
    assert sums == sorted(sums) and sums[0] < sums[-1]


def test_format_of_a_quant_tensor_that_comes_in() -> None:
    layer = aware()
    x = torch.randn(3, 64)
    sums = []
    for bits in (4, 8):
        act = qnn.QuantIdentity(bit_width=bits, return_quant_tensor=True)
        weight = layer.quant_weight(act(x))
        expected = layer.weight_quant.tensor_quant(layer.weight, torch.tensor(float(bits)), True)
        assert torch.equal(weight.value, expected[0])
        assert torch.equal(
            layer(act(x)), nn.functional.linear(act(x).value, weight.value, layer.bias)
        )
        sums.append(total(weight))
    assert sums[0] > sums[1]


def test_format_of_the_layers_own_input_is_known_without_a_forward() -> None:
    layer = aware(input_quant=Int8ActPerTensorFloat)
    expected = layer.weight_quant.tensor_quant(layer.weight, torch.tensor(8.0), True)
    assert torch.equal(layer.quant_weight().value, expected[0])
    proxy = layer.weight_quant
    fields = (proxy.scale(), proxy.zero_point(), proxy.bit_width())
    fields += (proxy.pre_scale(), proxy.pre_zero_point())
    assert all(torch.equal(*pair) for pair in zip(fields, expected[1:], strict=True))
    assert proxy.requires_quant_input and proxy.rounding_mode == "ROUND_TO_ZERO"
    assert proxy.is_narrow_range and proxy.is_signed


def test_an_input_that_is_not_quantized_is_refused() -> None:
    layer = aware()
    message = "Quantized input required.*received <class 'torch.Tensor'>.*set `input_quant`.*Linear"
    with pytest.raises(QuantLayerConfigurationError, match=message):
        layer(torch.randn(3, 64))
    with pytest.raises(QuantLayerConfigurationError, match="Quantized input required"):
        layer.quant_weight()


def test_an_input_of_minifloats_is_refused() -> None:
    layer = aware(input_quant=Fp8e4m3ActPerTensorFloat)
    message = "Quantized input required.*received <class '.*FloatQuantTensor'>"
    with pytest.raises(QuantLayerConfigurationError, match=message):
        layer(torch.randn(3, 64))
    with pytest.raises(QuantLayerConfigurationError, match="Quantized input required"):
        layer.quant_weight()


def test_format_of_the_last_input_is_kept_where_asked_for() -> None:
    layer = aware().eval()
    layer.weight_quant.cache_inference_quant_act = True
    act = qnn.QuantIdentity(bit_width=4, return_quant_tensor=True).eval()
    layer(act(torch.randn(3, 64)))
    expected = layer.weight_quant.tensor_quant(layer.weight, torch.tensor(4.0), True)
    assert torch.equal(layer.quant_weight().value, expected[0])
    layer.train()
    with pytest.raises(QuantLayerConfigurationError):
        layer.quant_weight()


@pytest.mark.parametrize("weight_quant", AWARE)
def test_a_kept_weight_belongs_to_the_format_of_its_input(weight_quant: Any) -> None:
    layer = aware(weight_quant).eval()
    acts = [qnn.QuantIdentity(bit_width=b, return_quant_tensor=True).eval() for b in (4, 8)]
    x = torch.randn(3, 64)
    expected = [layer(act(x)) for act in acts]
    assert not torch.equal(*expected)
    layer.weight_quant.cache_inference_quant_weight = True
    for _ in range(2):
        for act, y in zip(acts, expected, strict=True):
            assert torch.equal(layer(act(x)), y)
    kept = layer.quant_weight(acts[1](x))
    assert layer.quant_weight(acts[1](x)) is kept


# Models ------------------------------------------------------------------------------------------


class Model(nn.Module):
    """Signed input, unsigned hidden values, a bias at the accumulator's scale."""

    def __init__(self, weight_quant: Any) -> None:
        super().__init__()
        aware_bits = {"weight_accumulator_bit_width": 14} if weight_quant in AWARE else {}
        keywords = {"weight_quant": weight_quant, "bias_quant": Int32Bias, **aware_bits}
        act = {"input_quant": Int8ActPerTensorFloat, "input_collect_stats_steps": 1}
        self.first = qnn.QuantLinear(6, 8, return_quant_tensor=True, **act, **keywords)
        self.relu = qnn.QuantReLU(bit_width=4, return_quant_tensor=True, collect_stats_steps=1)
        self.second = qnn.QuantLinear(8, 3, **keywords)

    def forward(self, x: Tensor) -> Any:
        return self.second(self.relu(self.first(x)))


def _trained(model: nn.Module, run: Callable[[Tensor], Tensor]) -> list[Tensor]:
    results = []
    for seed in range(3):
        x = torch.randn(5, 6, generator=torch.Generator().manual_seed(seed))
        model.zero_grad()
        y = run(x)
        y.square().sum().backward()
        results += [y.detach(), *(p.grad.clone() for p in model.parameters())]
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(1e-3 * parameter.grad)
    model.eval()
    return [*results, run(x).detach()]


def _build(weight_quant: Any) -> nn.Module:
    torch.manual_seed(0)
    return Model(weight_quant)


QUICK = (Int8WeightPerChannelFloatDecoupled, Int8AccumulatorAwareZeroCenterWeightQuant)
COMPILED = [pytest.param(q, marks=[pytest.mark.long] * (q not in QUICK)) for q in DECOUPLED]


@pytest.mark.parametrize("weight_quant", COMPILED, ids=lambda q: q.__name__)
def test_compiled_training_and_evaluation(weight_quant: Any) -> None:
    torch._dynamo.reset()  # graphs of other tests' models count against the limit of this one's
    expected_model, model = _build(weight_quant), _build(weight_quant)
    expected = _trained(expected_model, expected_model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(_trained(model, compiled), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.long
@pytest.mark.parametrize(
    "weight_quant", [Int8WeightPerChannelFloatDecoupled, *AWARE], ids=lambda q: q.__name__
)
def test_compiled_regions(weight_quant: Any) -> None:
    expected_model, model = _build(weight_quant), _build(weight_quant)
    expected = _trained(expected_model, expected_model)
    with config.overrides(JIT_ENABLED=True):
        assert model.first.weight_quant.is_proxy_compiled
        results = _trained(model, model)
    for ours, theirs in zip(results, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("weight_quant", AWARE)
def test_sums_stay_within_the_accumulator_while_training(weight_quant: Any) -> None:
    """Integers of real activations times those of the weights, after each of some steps."""
    model = _build(weight_quant)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(64, 6)
    for _ in range(20):
        optimizer.zero_grad()
        model(x).square().sum().clamp(max=1e3).backward()
        optimizer.step()
        with torch.no_grad():
            hidden = model.relu(model.first(x))
            for layer, act in ((model.first, model.first.input_quant(x)), (model.second, hidden)):
                weight = layer.quant_weight(act)
                sums = act.int().double() @ weight.int().double().T
                assert sums.min() >= -(2**13) and sums.max() <= 2**13 - 1


@pytest.mark.parametrize("weight_quant", DECOUPLED, ids=lambda q: q.__name__)
def test_calibration(weight_quant: Any) -> None:
    model, x = _build(weight_quant), torch.randn(5, 6)
    with torch.no_grad(), calibration_mode(model):
        model(x)
    assert model.eval()(x).isfinite().all()
