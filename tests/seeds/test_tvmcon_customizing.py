"""TVMCon tutorial, cells 19 to 24: quantizers customized by keywords and by inheritance."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from brevitas.inject import DependencyError
from brevitas.nn import QuantConv1d, QuantIdentity, QuantLinear, QuantReLU
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int16Bias,
    Uint8ActPerTensorFloat,
    Uint8ActPerTensorFloatMaxInit,
)
from seeds.facts import assert_prints


def test_s0_33_bit_width_of_a_weight() -> None:
    torch.manual_seed(0)

    quant_linear = QuantLinear(2, 4, weight_bit_width=5, bias=True)

    quant_weight = quant_linear.quant_weight()
    assert_prints(quant_weight.value, "S0-33", "value")
    assert_prints(quant_weight.scale, "S0-33", "scale")
    assert_prints(quant_weight.bit_width, "S0-33", "bit_width")
    assert quant_weight.int().abs().max() == 15, "5 bits in a symmetric range"


def test_s0_34_one_scale_per_output_channel() -> None:
    torch.manual_seed(0)

    quant_linear = QuantLinear(
        2, 4, weight_bit_width=5, weight_scaling_per_output_channel=True, bias=False
    )

    quant_weight = quant_linear.quant_weight()
    assert_prints(quant_weight.value, "S0-34", "value")
    assert_prints(quant_weight.scale, "S0-34", "scale")
    assert_prints(quant_weight.bit_width, "S0-34", "bit_width")
    assert quant_weight.int().abs().amax(1).tolist() == [15] * 4, "each channel uses its range"


def test_s0_35_bit_width_of_an_activation() -> None:
    torch.manual_seed(0)

    float_input = torch.randn(3, 2)
    quant_identity = QuantIdentity(bit_width=3, return_quant_tensor=True)

    quant_tensor = quant_identity(float_input)
    assert_prints(quant_tensor.value, "S0-35", "value")
    assert_prints(quant_tensor.scale, "S0-35", "scale")
    assert_prints(quant_tensor.bit_width, "S0-35", "bit_width")
    assert quant_tensor.int().min() == -4, "3 bits, of which -4 is used"


def test_s0_36_a_scale_that_starts_from_a_maximum_of_the_user() -> None:
    torch.manual_seed(0)

    from brevitas.quant import Uint8ActPerTensorFloatMaxInit

    float_inp1 = torch.randn(3, 2)
    quant_relu = QuantReLU(
        max_val=6.0, act_quant=Uint8ActPerTensorFloatMaxInit, return_quant_tensor=True
    )
    quant_tensor = quant_relu(float_inp1)

    assert_prints(quant_tensor.value, "S0-36", "value")
    assert_prints(quant_tensor.scale, "S0-36", "scale")
    assert_prints(quant_tensor.bit_width, "S0-36", "bit_width")
    # No statistics: the scale is learned from the first step on.
    assert torch.equal(quant_relu(100 * float_inp1).scale, quant_tensor.scale)
    quant_relu(torch.full((3,), 100.0)).value.sum().backward()
    (learned,) = quant_relu.parameters()
    # Each of three clipped values is 255 * scale, and scale is max_val / 255.
    torch.testing.assert_close(learned.grad, torch.tensor(3.0))


def test_s0_36_the_maximum_has_to_be_given() -> None:
    with pytest.raises(DependencyError, match="max_val"):
        QuantReLU(act_quant=Uint8ActPerTensorFloatMaxInit)


def cell_23() -> tuple[Any, Any]:
    torch.manual_seed(0)

    from brevitas.nn import QuantConv1d

    BATCHES = 1
    CHANNELS = 2
    FEATURES = 5
    KERNEL = 3

    float_input = torch.randn(BATCHES, CHANNELS, FEATURES)
    per_channel_depthwise_quant_conv = QuantConv1d(
        CHANNELS, CHANNELS, KERNEL, groups=CHANNELS, bias=True,
        # set the quantizers
        input_quant=Int8ActPerTensorFloat,
        bias_quant=Int16Bias,
        # customize the input quantizer with extra keyword args
        input_bit_width=3,
        input_scaling_per_output_channel=True,
        # permute dims to put channels first during stats collection phase
        input_scaling_stats_permute_dims=(1, 0, 2),
        input_per_channel_broadcastable_shape=(1, CHANNELS, 1), # shape of the learned parameter
        return_quant_tensor=True)  # fmt: skip

    quant_output = per_channel_depthwise_quant_conv(float_input)
    return float_input, quant_output


def test_s0_37_one_scale_per_channel_of_an_activation() -> None:
    float_input, quant_output = cell_23()
    assert_prints(float_input, "S0-37", "input")
    assert_prints(quant_output.value, "S0-37", "value")
    assert_prints(quant_output.scale, "S0-37", "scale")
    assert_prints(quant_output.bit_width, "S0-37", "bit_width")


def cell_24() -> Any:
    torch.manual_seed(0)

    from brevitas.nn import QuantConv1d

    BATCHES = 1
    CHANNELS = 2
    FEATURES = 5
    KERNEL = 3

    class PerChannel3bActQuant(Int8ActPerTensorFloat):
        bit_width = 3
        scaling_per_output_channel = True
        scaling_stats_permute_dims = (1, 0, 2)

    float_input = torch.randn(BATCHES, CHANNELS, FEATURES)
    per_channel_depthwise_quant_conv = QuantConv1d(
        CHANNELS, CHANNELS, KERNEL, groups=CHANNELS, bias=True,
        # set the quantizers
        input_quant=PerChannel3bActQuant,
        bias_quant=Int16Bias,
        # layer-specific kwarg
        input_per_channel_broadcastable_shape=(1, CHANNELS, 1),
        return_quant_tensor=True)  # fmt: skip

    return per_channel_depthwise_quant_conv(float_input)


def test_s0_38_inheriting_from_a_quantizer() -> None:
    quant_output = cell_24()
    assert_prints(quant_output.value, "S0-38", "value")
    assert_prints(quant_output.scale, "S0-38", "scale")
    assert_prints(quant_output.bit_width, "S0-38", "bit_width")
    by_keywords = cell_23()[1]
    assert torch.equal(quant_output.value, by_keywords.value)
    assert torch.equal(quant_output.scale, by_keywords.scale)


@pytest.mark.parametrize(("layer", "sizes"), [(QuantLinear, (2, 4)), (QuantConv1d, (2, 4, 3))])
def test_s0_39_a_prefix_says_which_quantizer_a_keyword_is_for(layer: Any, sizes: Any) -> None:
    quantized = layer(
        *sizes,
        bias=True,
        weight_bit_width=2,
        bias_quant=Int16Bias,
        bias_bit_width=3,
        input_quant=Int8ActPerTensorFloat,
        input_bit_width=4,
        output_quant=Int8ActPerTensorFloat,
        output_bit_width=5,
    )
    quantizers = [getattr(quantized, f"{role}_quant") for role in ("weight", "input", "output")]
    assert [int(quantizer.bit_width()) for quantizer in quantizers] == [2, 4, 5]
    assert quantized.bias_quant.tensor_quant.msb_clamp_bit_width_impl() == 3


def test_s0_39_an_activation_has_no_prefix_for_its_output() -> None:
    layer = QuantReLU(bit_width=6, input_quant=Int8ActPerTensorFloat, input_bit_width=7)
    assert layer.act_quant.bit_width() == 6 and layer.input_quant.bit_width() == 7


def test_s0_39_a_prefix_without_its_quantizer_has_no_effect_and_is_reported() -> None:
    with pytest.warns(UserWarning, match="input_bit_width=4 .*input_quant is None"):
        QuantLinear(2, 4, input_bit_width=4)
    with pytest.warns(UserWarning, match="act_bit_width=4"):
        QuantIdentity(act_quant=Uint8ActPerTensorFloat, act_bit_width=4)
