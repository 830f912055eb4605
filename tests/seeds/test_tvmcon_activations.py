"""TVMCon tutorial, cells 8 to 12: quantized inputs, outputs and activations."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from brevitas.nn import QuantIdentity, QuantLinear, QuantReLU
from brevitas.quant import Int8ActPerTensorFloat, Uint8ActPerTensorFloat
from brevitas.quant_tensor import IntQuantTensor
from seeds.facts import assert_prints


def cell_8_and_9(**options: Any) -> Any:
    torch.manual_seed(0)

    from brevitas.quant import Int8ActPerTensorFloat

    float_input = torch.randn(3, 2)
    quant_linear = QuantLinear(2, 4, input_quant=Int8ActPerTensorFloat, bias=False, **options)

    return quant_linear(float_input)


def test_s0_15_a_layer_with_a_quantized_input_returns_a_plain_tensor() -> None:
    quant_output = cell_8_and_9()
    assert_prints(quant_output, "S0-15", "output")
    assert type(quant_output) is Tensor and quant_output.grad_fn is not None


def test_s0_16_a_layer_returns_a_quant_tensor_on_request() -> None:
    quant_output = cell_8_and_9(return_quant_tensor=True)
    assert isinstance(quant_output, IntQuantTensor)
    assert_prints(quant_output.value, "S0-16", "value")
    assert_prints(quant_output.scale, "S0-16", "scale")
    assert_prints(quant_output.zero_point, "S0-16", "zero_point")
    assert_prints(quant_output.bit_width, "S0-16", "bit_width")
    assert quant_output.signed and quant_output.training and quant_output.is_valid


def test_s0_17_a_quantized_identity_in_front_of_a_layer() -> None:
    torch.manual_seed(0)

    from brevitas.nn import QuantIdentity

    float_input = torch.randn(3, 2)
    quant_identity = QuantIdentity(return_quant_tensor=True)
    quant_linear = QuantLinear(2, 4, bias=False, return_quant_tensor=True)

    quant_input = quant_identity(float_input)
    quant_output = quant_linear(quant_input)

    assert_prints(quant_input.value, "S0-17", "quant_input.value")
    assert_prints(quant_input.scale, "S0-17", "quant_input.scale")
    assert_prints(quant_output.value, "S0-17", "output.value")
    assert_prints(quant_output.scale, "S0-17", "output.scale")
    assert_prints(quant_output.bit_width, "S0-17", "output.bit_width")
    # The layer's own input quantizer is the same one, Int8ActPerTensorFloat.
    assert torch.equal(quant_output.value, cell_8_and_9())


def test_s0_18_a_quantized_relu() -> None:
    torch.manual_seed(0)

    from brevitas.nn import QuantReLU

    float_input = torch.randn(3, 2)
    quant_relu = QuantReLU(return_quant_tensor=True)

    quant_output = quant_relu(float_input)

    assert_prints(quant_output.value, "S0-18", "value")
    assert_prints(quant_output.scale, "S0-18", "scale")
    assert_prints(quant_output.bit_width, "S0-18", "bit_width")
    assert not quant_output.signed
    # The default is Uint8ActPerTensorFloat, after the ReLU: a quantizer alone would see -2.18.
    quantizer = QuantIdentity(act_quant=Uint8ActPerTensorFloat, return_quant_tensor=True)
    assert torch.equal(quant_output.value, quantizer(float_input.relu()).value)


def test_s0_19_a_quant_tensor_is_quantized_anew() -> None:
    torch.manual_seed(0)

    float_input = torch.randn(3, 2)
    quant_identity = QuantIdentity(return_quant_tensor=True)
    quant_relu = QuantReLU(return_quant_tensor=True)

    signed_quant_output = quant_identity(float_input)
    unsigned_quant_output = quant_relu(signed_quant_output)

    assert_prints(signed_quant_output.value, "S0-19", "a.value")
    assert_prints(signed_quant_output.scale, "S0-19", "a.scale")
    assert_prints(unsigned_quant_output.value, "S0-19", "b.value")
    assert_prints(unsigned_quant_output.scale, "S0-19", "b.scale")
    assert signed_quant_output.signed and not unsigned_quant_output.signed


# How the scale is found


def _statistic(x: Tensor) -> Tensor:
    """Percentile of the absolute value that the default takes: of a few values, the largest."""
    return x.abs().max()


def _collect(layer: nn.Module, steps: int) -> Tensor:
    """Run training steps, and return the moving average of their statistics."""
    average = torch.zeros(())
    for step in range(steps):
        batch = torch.randn(8) * (1 + step % 3)
        layer(batch)
        average = _statistic(batch) if step == 0 else 0.9 * average + 0.1 * _statistic(batch)
    return average


@pytest.mark.parametrize("quantizer", [Int8ActPerTensorFloat, Uint8ActPerTensorFloat])
def test_s0_20_the_scale_comes_from_a_percentile_of_the_absolute_value(quantizer: Any) -> None:
    assert quantizer.high_percentile_q == 99.999 and quantizer.collect_stats_steps == 300
    count = 1_000_000
    x = torch.randn(count)
    layer = QuantIdentity(act_quant=quantizer, return_quant_tensor=True)
    scale = layer(x).scale.detach()
    threshold = scale * (128 if quantizer is Int8ActPerTensorFloat else 255)
    above = int((x.abs() > threshold).sum())
    # 99.999 % of a million are 999,990 values, give or take how a percentile counts its own one.
    assert math.isclose(above, count * 1e-5, abs_tol=1)


def test_s0_20_statistics_are_collected_for_300_training_steps() -> None:
    layer = QuantIdentity(return_quant_tensor=True)
    _collect(layer, 299)
    small, large = torch.full((4,), 0.01), torch.full((4,), 10.0)
    assert layer(large).scale == large[0] / 128, "the 300th step still takes its own statistic"
    assert torch.equal(layer(small).scale, layer(large).scale), "learned from the 301st on"


def test_s0_21_training_takes_the_batch_then_a_parameter_learned_from_the_average() -> None:
    layer = QuantIdentity(return_quant_tensor=True)
    for factor in (1.0, 5.0):
        batch = factor * torch.randn(8)
        torch.testing.assert_close(layer(batch).scale, _statistic(batch) / 128, rtol=1e-6, atol=0)
    layer = QuantIdentity(return_quant_tensor=True)
    average = _collect(layer, 300)
    (name, learned), *others = layer.named_parameters()
    assert not others and name.endswith("scaling_impl.value")
    # 300 float32 updates of the average, each rounded at 2^-24 of it.
    torch.testing.assert_close(learned.detach(), average, rtol=300 * 2**-24, atol=0)
    in_training = layer(torch.randn(8)).scale
    in_training.backward()
    assert learned.grad is not None and learned.grad != 0
    assert torch.equal(in_training, layer.eval()(torch.randn(8)).scale)
    with torch.no_grad():
        learned.mul_(2.0)
    assert torch.equal(layer.train()(torch.randn(8)).scale, 2.0 * in_training)


def test_s0_22_evaluation_takes_the_moving_average() -> None:
    layer = QuantIdentity(return_quant_tensor=True)
    average = _collect(layer, 5)
    layer.eval()
    scales = [layer(factor * torch.randn(8)).scale for factor in (0.1, 1.0, 100.0)]
    torch.testing.assert_close(scales[0], average / 128, rtol=1e-6, atol=0)
    assert torch.equal(scales[0], scales[1]) and torch.equal(scales[0], scales[2])
