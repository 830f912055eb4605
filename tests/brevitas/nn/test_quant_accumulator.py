"""Accumulators with fewer bits, by themselves and behind layers."""

from __future__ import annotations

import pytest
import torch

import brevitas.nn as qnn
from brevitas.common import QuantLayerConfigurationError
from brevitas.quant import Int8ActPerTensorFloat, Int16Bias, RoundTo8bit, TruncTo8bit
from brevitas.quant.base import IntQuant
from brevitas.quant.solver import ClampQuantSolver
from brevitas.quant_tensor import IntQuantTensor
from integer_shift import truncated
from quant_tensors import make


class ClampTo8bit(IntQuant, ClampQuantSolver):
    bit_width = 8


def test_behind_a_linear_layer():
    quantizers = {"input_quant": Int8ActPerTensorFloat, "bias_quant": Int16Bias}
    layer = qnn.QuantLinear(8, 4, **quantizers, return_quant_tensor=True)
    sums = layer(torch.randn(5, 8))
    bits = int(sums.bit_width)
    for quantizer, mode in ((TruncTo8bit, "FLOOR"), (RoundTo8bit, "ROUND")):
        y = qnn.TruncQuantAccumulator(trunc_quant=quantizer)(sums)
        expected = truncated(sums.int().long(), bits, 8, mode, True)
        assert y.is_valid and torch.equal(y.int().long(), expected)
    y = qnn.ClampQuantAccumulator(clamp_quant=ClampTo8bit, bit_width=11)(sums)
    assert y.is_valid and torch.equal(y.int().long(), sums.int().long().clamp(-1024, 1023))


def test_a_float_bias():
    """It is no part of the integers that are truncated; a clamp rounds it to a whole step."""
    layer = qnn.QuantLinear(8, 4, input_quant=Int8ActPerTensorFloat, return_quant_tensor=True)
    sums = layer(torch.randn(5, 8))
    bits, q = int(sums.bit_width), sums.int().long()
    y = qnn.TruncQuantAccumulator(trunc_quant=RoundTo8bit)(sums)
    assert y.is_valid and torch.equal(y.int().long(), truncated(q, bits, 8, "ROUND", True))
    # Each value moves by half a step of the result at most; the bias is exact.
    assert ((y.value - sums.value).abs() <= 0.5001 * y.scale).all()
    y = qnn.ClampQuantAccumulator(clamp_quant=ClampTo8bit, bit_width=24)(sums)
    assert y.is_valid and ((y.value - sums.value).abs() <= 0.5001 * sums.scale).all()


def test_a_scale_per_channel():
    layer = qnn.QuantConv2d(
        3,
        4,
        3,
        input_quant=Int8ActPerTensorFloat,
        weight_scaling_per_output_channel=True,
        return_quant_tensor=True,
    )
    sums = layer(torch.randn(2, 3, 5, 5))
    y = qnn.TruncQuantAccumulator(trunc_quant=TruncTo8bit)(sums)
    bits = int(sums.bit_width)
    assert y.scale.shape == (1, 4, 1, 1) and y.is_valid
    assert torch.equal(y.int().long(), truncated(sums.int().long(), bits, 8, "FLOOR", True))


@pytest.mark.parametrize("signed_input", [True, False])
def test_the_worst_sum_fits(signed_input):
    """All products at the end of their range: no bit is lost before the shift."""
    bits, features = 4, 37
    layer = qnn.QuantLinear(
        features, 2, bias=False, weight_bit_width=bits, return_quant_tensor=True
    )
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0], [-1.0]]).expand(2, features))
    low, high = (-8.0, 7.0) if signed_input else (0.0, 15.0)
    for extreme in (low, high):
        x = IntQuantTensor(torch.full((1, features), extreme), 1.0, 0.0, bits, signed_input, False)
        sums = layer(x)
        integers = torch.tensor([[7, -7]]) * int(extreme) * features
        assert sums.is_valid and torch.equal(sums.int().long(), integers)
        y = qnn.TruncQuantAccumulator(trunc_quant=TruncTo8bit)(sums)
        expected = truncated(integers, int(sums.bit_width), 8, "FLOOR", True)
        assert y.is_valid and torch.equal(y.int().long(), expected)


@pytest.mark.parametrize("kind", [qnn.TruncQuantAccumulator, qnn.ClampQuantAccumulator])
def test_without_quantizer_all_bits_stay(kind):
    x, _ = make((4,), bit_width=19)
    assert kind()(x) is x
    assert kind(return_quant_tensor=False)(x) is x.value
    assert kind(return_quant_tensor=False)(x.value) is x.value
    with pytest.raises(QuantLayerConfigurationError, match="return_quant_tensor=True on"):
        kind()(x.value)
    assert kind().channelwise_separable and kind().requires_export_handler


def test_an_unread_keyword_is_reported():
    with pytest.warns(UserWarning, match="bit_widht=4 is read by none.*Did you mean 'bit_width'"):
        qnn.TruncQuantAccumulator(trunc_quant=TruncTo8bit, bit_widht=4)
    with pytest.warns(UserWarning, match="clamp_quant is None here"):
        qnn.ClampQuantAccumulator(bit_width=4)


class LearnedClamp(ClampTo8bit):
    bit_width_impl_type = "parameter"
    bit_width_to_remove = 4


def test_removed_bits_are_learned_through_bits_and_values():
    """The gradient of a loss on values, and of one on bit widths, reaches the coefficient."""
    layer = qnn.ClampQuantAccumulator(clamp_quant=LearnedClamp, bit_width=32)
    key = "clamp_quant.tensor_quant.msb_clamp_bit_width_impl.bit_width_to_remove_impl"
    assert list(layer.state_dict()) == [f"{key}.bit_width_coeff"]
    coefficient = layer.get_parameter(f"{key}.bit_width_coeff")
    x, q = make((500,), scale=1.0, bit_width=12)
    y = layer(x)
    assert y.bit_width == 8 and y.is_valid
    y.bit_width.backward(retain_graph=True)
    denominator = coefficient.item() + 1e-6
    assert coefficient.grad.item() == pytest.approx(denominator**-2, rel=1e-5)
    coefficient.grad = None
    y.value.sum().backward()
    # Saturated elements follow the limits, 2 ** (b - 1) - 1 and -2 ** (b - 1).
    saturated = (q > 127).sum().item() - (q < -128).sum().item()
    slope = torch.log(torch.tensor(2.0)).item() * 2**7 * saturated
    assert coefficient.grad.item() == pytest.approx(slope * denominator**-2, rel=1e-4)
