"""TVMCon tutorial, cells 2 to 7: quantized weights."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import brevitas.quant
from brevitas.inject.enum import ScalingImplType
from brevitas.nn import QuantIdentity, QuantLinear
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8WeightPerTensorFixedPoint,
    Int8WeightPerTensorFloat,
)
from brevitas.quant_tensor import IntQuantTensor
from seeds.facts import assert_prints

PRINTED_QUANT_WEIGHT = """
 QuantTensor(value=tensor([[-0.0046,  0.3803],
        [-0.5820, -0.5224],
        [-0.2704,  0.1879],
        [-0.0137,  0.5591]], grad_fn=<MulBackward0>), scale=tensor(0.0046, grad_fn=<DivBackward0>), zero_point=tensor(0.), bit_width=tensor(8.), signed_t=tensor(True), training_t=tensor(True))
"""  # noqa: E501


def cell_2() -> QuantLinear:
    torch.manual_seed(0)

    quant_linear = QuantLinear(2, 4, bias=True)
    return quant_linear


def test_s0_05_default_weight_quantization() -> None:
    quant_linear = cell_2()
    quant_weight = quant_linear.quant_weight()
    assert_prints(quant_linear.weight, "S0-05", "weight")
    assert_prints(quant_weight.value, "S0-05", "quant_weight.value")
    assert_prints(quant_weight.scale, "S0-05", "scale")
    assert_prints(quant_weight.zero_point, "S0-05", "zero_point")
    assert_prints(quant_weight.bit_width, "S0-05", "bit_width")
    assert quant_weight.signed_t and quant_weight.training_t


def _without_free_parts(text: str) -> str:
    """Blank out the names of gradient functions, which the tutorials print differently."""
    return " ".join(re.sub(r"grad_fn=<\w+>", "grad_fn=<...>", text).split())


def test_s0_06_text_of_a_quant_tensor() -> None:
    expected = _without_free_parts(PRINTED_QUANT_WEIGHT).replace("QuantTensor", "IntQuantTensor")
    assert _without_free_parts(repr(cell_2().quant_weight())) == expected


def test_s0_06_text_of_a_printed_quant_tensor_in_later_tutorials() -> None:
    text = _without_free_parts(f"{cell_2().quant_weight()}")
    assert text.startswith("IntQuantTensor(value=tensor([[-0.0046, 0.3803], [-0.5820, -0.5224],")
    assert text.endswith(
        "grad_fn=<...>), scale=0.004582525696605444, zero_point=0.0, bit_width=8.0, "
        "signed_t=True, training_t=True)"
    )


def test_s0_07_the_scale_is_differentiable_and_follows_the_largest_weight() -> None:
    quant_linear = cell_2()
    scale = quant_linear.quant_weight().scale
    largest = quant_linear.weight.abs().max()
    torch.testing.assert_close(scale, largest / 127, rtol=1e-6, atol=0)
    scale.backward()
    # Only the largest weight, which is negative, moves the scale.
    expected = torch.where(quant_linear.weight.abs() == largest, -1 / 127, 0.0)
    torch.testing.assert_close(quant_linear.weight.grad, expected)


def test_s0_08_integers_of_a_weight() -> None:
    integers = cell_2().quant_weight().int()
    assert_prints(integers, "S0-08", "int")
    # The tutorial printed int32; later ones print the smallest type that holds the integers.
    assert integers.dtype == torch.int8


def cell_4() -> tuple[Tensor, QuantLinear, Any]:
    torch.manual_seed(0)

    float_input = torch.randn(3, 2)
    quant_linear = QuantLinear(2, 4, bias=False)
    float_output = quant_linear(float_input)
    return float_input, quant_linear, float_output


def test_s0_09_a_float_input_gives_a_float_output() -> None:
    float_input, _, float_output = cell_4()
    assert_prints(float_input, "S0-09", "input")
    assert_prints(float_output, "S0-09", "output")
    assert type(float_output) is Tensor and float_output.grad_fn is not None


def test_s0_10_the_layer_computes_in_floating_point_on_the_dequantized_weight() -> None:
    float_input, quant_linear, float_output = cell_4()
    quant_weight = quant_linear.quant_weight()
    assert torch.equal(float_output, F.linear(float_input, quant_weight.value))
    dequantized = (quant_weight.int() - quant_weight.zero_point) * quant_weight.scale
    torch.testing.assert_close(quant_weight.value, dequantized)


# 2026-11: PyTorch warns of `math.log2` of a tensor that has a gradient; the tutorial does that.
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar")
def test_s0_11_fixed_point_weights() -> None:
    torch.manual_seed(0)

    quant_linear = QuantLinear(2, 4, weight_quant=Int8WeightPerTensorFixedPoint, bias=False)

    quant_weight = quant_linear.quant_weight()
    assert_prints(quant_weight.value, "S0-11", "value")
    assert_prints(quant_weight.scale, "S0-11", "scale")
    assert_prints(quant_weight.bit_width, "S0-11", "bit_width")
    weight_fix_point = -math.log2(quant_linear.quant_weight().scale)
    assert_prints(weight_fix_point, "S0-11", "-log2(scale)")
    assert weight_fix_point == 7.0, "the scale is a power of two exactly"


def test_s0_12_binary_weights() -> None:
    torch.manual_seed(0)

    from brevitas.quant import SignedBinaryWeightPerTensorConst

    quant_linear = QuantLinear(2, 4, weight_quant=SignedBinaryWeightPerTensorConst, bias=False)

    quant_weight = quant_linear.quant_weight()
    assert_prints(quant_weight.value, "S0-12", "value")
    assert_prints(quant_weight.scale, "S0-12", "scale")
    assert_prints(quant_weight.zero_point, "S0-12", "zero_point")
    assert_prints(quant_weight.bit_width, "S0-12", "bit_width")
    assert quant_weight.signed_t and torch.equal(quant_weight.value.sign(), _signs(quant_linear))


def _signs(layer: QuantLinear) -> Tensor:
    return torch.where(layer.weight >= 0, 1.0, -1.0)


def test_s0_12_the_constant_scale_can_be_chosen() -> None:
    from brevitas.quant import SignedBinaryWeightPerTensorConst

    layer = QuantLinear(
        2, 4, weight_quant=SignedBinaryWeightPerTensorConst, weight_scaling_const=0.5, bias=False
    )
    assert torch.equal(layer.quant_weight().value, 0.5 * _signs(layer))


def test_s0_13_sharing_a_weight_quantizer() -> None:
    torch.manual_seed(0)

    # Define a QuantLinear layer 1
    quant_linear1 = QuantLinear(2, 4, bias=False)

    # Keep a pointer to the scale factor of QuantLinear layer 1 weights before sharing
    quant_linear1_scale_before_sharing = quant_linear1.quant_weight().scale

    # Define a QuantLinear layer 2 where the weight quantizer is taken from layer 1
    quant_linear2 = QuantLinear(2, 4, weight_quant=quant_linear1.weight_quant, bias=False)

    assert f"{quant_linear1_scale_before_sharing:.4f}" == "0.0046"
    assert f"{quant_linear2.quant_weight().scale:.4f}" == "0.0053"
    assert f"{quant_linear1.quant_weight().scale:.4f}" == "0.0053"
    assert_prints(quant_linear1_scale_before_sharing, "S0-13", "scale l1 before")
    assert_prints(quant_linear2.quant_weight().scale, "S0-13", "scale l2")
    assert_prints(quant_linear1.quant_weight().scale, "S0-13", "scale l1 after")


def test_s0_14_any_number_of_layers_shares_one_quantizer() -> None:
    layers = [QuantLinear(2, 4, bias=False)]
    layers[0].weight.data.mul_(0.1)
    layers[0].weight_quant.init_tensor_quant()
    for factor in (1.0, 3.0, 0.5):
        built_before = layers[0].weight_quant.tensor_quant
        layers.append(QuantLinear(2, 4, weight_quant=layers[0].weight_quant, bias=False))
        assert layers[0].weight_quant.tensor_quant is not built_before, "re-initialised"
        layers[-1].weight.data.mul_(factor)
        largest = max(layer.weight.abs().max().item() for layer in layers)
        for layer in layers:
            assert layer.weight_quant is layers[0].weight_quant
            quant_weight = layer.quant_weight()
            assert quant_weight.scale.item() == pytest.approx(largest / 127, rel=1e-6)
            assert quant_weight.zero_point == 0 and quant_weight.bit_width == 8


class LearnedWeight(Int8WeightPerTensorFloat):
    scaling_impl_type = ScalingImplType.PARAMETER_FROM_STATS


def _largest(first: QuantLinear, second: QuantLinear) -> float:
    return torch.cat([first.weight, second.weight]).abs().max().item()


@pytest.mark.parametrize(
    ("quantizer", "expected"),
    [
        # The learned scale starts from the largest of all weights.
        (LearnedWeight, lambda *layers: _largest(*layers) / 127),
        ("SignedBinaryWeightPerTensorConst", lambda *layers: 0.1),
        # The power of two above the range of 128 integers.
        (
            Int8WeightPerTensorFixedPoint,
            lambda *layers: 2.0 ** math.ceil(math.log2(_largest(*layers) / 128)),
        ),
    ],
)
def test_s0_79_layers_share_weight_quantizers_of_any_strategy(
    quantizer: Any, expected: Any
) -> None:
    if isinstance(quantizer, str):
        quantizer = getattr(brevitas.quant, quantizer)
    first = QuantLinear(2, 4, weight_quant=quantizer, bias=False)
    second = QuantLinear(2, 4, weight_quant=first.weight_quant, bias=False)
    with torch.no_grad():
        second.weight.mul_(4.0)
        second.weight_quant.init_tensor_quant()
    scales = [layer.quant_weight().scale for layer in (first, second)]
    assert torch.equal(*scales)
    assert scales[0].item() == pytest.approx(expected(first, second), rel=1e-6)
    # One quantizer, so that its learned values are parameters once.
    names = [name for name, _ in nn.ModuleList([first, second]).named_parameters()]
    assert len(names) == 2 + (quantizer is LearnedWeight)


def test_s0_79_activations_share_a_quantizer() -> None:
    first = QuantIdentity(act_quant=Int8ActPerTensorFloat, return_quant_tensor=True)
    second = QuantIdentity(act_quant=first.act_quant, return_quant_tensor=True)
    first(torch.full((4,), 1.0))
    second(torch.full((4,), 3.0))
    first.eval(), second.eval()
    outputs = [layer(torch.randn(4)) for layer in (first, second)]
    assert all(isinstance(output, IntQuantTensor) for output in outputs)
    # One moving average of both: a tenth of the newest statistic.
    torch.testing.assert_close(outputs[0].scale, torch.tensor((0.9 * 1.0 + 0.1 * 3.0) / 128))
    assert torch.equal(outputs[0].scale, outputs[1].scale)
