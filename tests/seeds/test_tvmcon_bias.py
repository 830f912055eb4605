"""TVMCon tutorial, cells 13 and 14: a quantized bias needs the scale of the input."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from brevitas.nn import QuantIdentity, QuantLinear
from brevitas.quant import Int8ActPerTensorFloat
from brevitas.quant.scaled_int import Int16Bias
from seeds.facts import assert_prints


def cell_13(return_quant_tensor: bool) -> Any:
    torch.manual_seed(0)

    from brevitas.quant.scaled_int import Int16Bias

    float_input = torch.randn(3, 2)
    quant_linear = QuantLinear(
        2, 4, bias=True, bias_quant=Int16Bias, return_quant_tensor=return_quant_tensor
    )

    return quant_linear(float_input)


@pytest.mark.parametrize("return_quant_tensor", [True, False])
# This tutorial's message, and the one of later tutorials.
@pytest.mark.parametrize("message", ["Input scale required", "QuantLayer is not correctly config"])
def test_s0_23_without_an_input_scale_the_bias_cannot_be_quantized(
    message: str, return_quant_tensor: bool
) -> None:
    with pytest.raises(RuntimeError, match=message):
        cell_13(return_quant_tensor)


def cell_14() -> Any:
    torch.manual_seed(0)

    float_input = torch.randn(3, 2)
    quant_linear = QuantLinear(
        2,
        4,
        bias=True,
        input_quant=Int8ActPerTensorFloat,
        bias_quant=Int16Bias,
        return_quant_tensor=True,
    )

    return quant_linear(float_input)


def test_s0_24_with_an_input_quantizer() -> None:
    quant_output = cell_14()
    assert_prints(quant_output.value, "S0-24", "value")
    assert_prints(quant_output.scale, "S0-24", "scale")
    assert_prints(quant_output.zero_point, "S0-24", "zero_point")
    assert_prints(quant_output.bit_width, "S0-24", "bit_width")
    assert quant_output.signed and quant_output.training


def test_s0_24_with_a_quant_tensor_coming_from_a_different_layer() -> None:
    torch.manual_seed(0)
    float_input = torch.randn(3, 2)
    quant_linear = QuantLinear(2, 4, bias=True, bias_quant=Int16Bias, return_quant_tensor=True)
    quant_output = quant_linear(QuantIdentity(return_quant_tensor=True)(float_input))
    assert torch.equal(quant_output.value, cell_14().value)
    # The bias is a multiple of input scale times weight scale, so the sum of it is one, too.
    steps = quant_output.value / quant_output.scale
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=0.01)
