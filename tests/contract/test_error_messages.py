"""Each bad input gets a message: what was wrong, the value, what is accepted, what to do, where.

After every failed construction the quantizer classes still work.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import torch

import brevitas.nn as qnn
from brevitas.common import QuantLayerConfigurationError
from brevitas.inject import DependencyError
from brevitas.inject.enum import BitWidthImplType
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8ActPerTensorFloatMinMaxInit,
    Int8WeightPerTensorFloat,
    Int16Bias,
    Uint8ActPerTensorFloatMaxInit,
)
from brevitas.quant_tensor import IntQuantTensor


@pytest.fixture(autouse=True)
def good_quantizers_still_work():
    """The classes are resolved before and after each failure, with equal results."""

    def outputs() -> list[Any]:
        torch.manual_seed(0)
        layers = [
            qnn.QuantLinear(4, 3, input_quant=Int8ActPerTensorFloat, bias_quant=Int16Bias),
            qnn.QuantLinear(4, 3, weight_bit_width=4),
            qnn.QuantReLU(act_quant=Uint8ActPerTensorFloatMaxInit, max_val=6.0),
            qnn.QuantHardTanh(min_val=-1.0, max_val=1.0),
        ]
        x = torch.randn(2, 4)
        return [layer(x) for layer in layers]

    before = outputs()
    yield
    assert all(torch.equal(*pair) for pair in zip(before, outputs(), strict=True))


@pytest.mark.parametrize(
    ("bits", "error"),
    [
        (0, ValueError),
        (-3, ValueError),
        (3.5, ValueError),
        ("4", TypeError),
        (None, TypeError),
        (True, TypeError),
    ],
)
@pytest.mark.parametrize(
    ("layer", "prefix"),
    [
        (lambda **k: qnn.QuantLinear(2, 2, **k), "weight_"),
        (lambda **k: qnn.QuantConv2d(2, 2, 3, **k), "weight_"),
        (lambda **k: qnn.QuantLinear(2, 2, input_quant=Int8ActPerTensorFloat, **k), "input_"),
        (lambda **k: qnn.QuantLinear(2, 2, bias_quant=Int16Bias, **k), "bias_"),
        (lambda **k: qnn.QuantReLU(**k), ""),
    ],
)
def test_bit_width(bits, error, layer, prefix):
    with pytest.raises(error) as caught:
        layer(**{f"{prefix}bit_width": bits})
    expected = (
        rf"{prefix}bit_width={re.escape(repr(bits))}: expected an int >= 1 "
        r"\(2 for a learned bit width\)\. Layer: Quant(Linear|Conv2d|ReLU)"
    )
    assert re.fullmatch(expected, str(caught.value))


def test_learned_bit_width_starts_at_two():
    with pytest.raises(ValueError, match="weight_bit_width=1: expected an int >= 2.*QuantLinear"):
        qnn.QuantLinear(
            2, 2, weight_bit_width=1, weight_bit_width_impl_type=BitWidthImplType.PARAMETER
        )


@pytest.mark.parametrize("bits", [2.0, 4.0, torch.tensor(4), torch.tensor(4.0)])
def test_whole_numbers_of_any_kind_are_accepted(bits):
    layer = qnn.QuantLinear(2, 2, weight_bit_width=bits)
    assert layer.weight_quant.bit_width() == float(bits)


def test_unknown_keyword():
    message = (
        "QuantLinear: keyword weight_bitwidth=3 is read by none of its quantizers. "
        "Did you mean 'weight_bit_width'?"
    )
    with pytest.warns(UserWarning, match=re.escape(message)) as caught:
        layer = qnn.QuantLinear(2, 2, weight_bitwidth=3)
    assert len(caught) == 1
    assert layer.weight_quant.bit_width() == 8


@pytest.mark.parametrize(
    ("build", "quantizer", "layer"),
    [
        (
            lambda: qnn.QuantReLU(act_quant=Uint8ActPerTensorFloatMaxInit),
            "Uint8ActPerTensorFloatMaxInit",
            "QuantReLU",
        ),
        (qnn.QuantHardTanh, "Int8ActPerTensorFloatMinMaxInit", "QuantHardTanh"),
        (
            lambda: qnn.QuantLinear(2, 2, input_quant=Int8ActPerTensorFloatMinMaxInit),
            "Int8ActPerTensorFloatMinMaxInit",
            "QuantLinear (keywords of this quantizer: input_...)",
        ),
    ],
)
def test_missing_value(build, quantizer, layer):
    with pytest.raises(DependencyError) as caught:
        build()
    message = str(caught.value)
    assert f"'{quantizer}' can not resolve attribute 'max_val'" in message
    assert "Chain: tensor_quant -> scaling_impl -> scaling_init" in message
    assert "declared by" in message
    assert f"{quantizer}.let(max_val=...), or pass it to the layer as a keyword" in message
    assert message.endswith(f"Layer: {layer}")


@pytest.mark.parametrize("return_quant_tensor", [True, False])
def test_bias_without_quantized_input(return_quant_tensor):
    layer = qnn.QuantLinear(4, 3, bias_quant=Int16Bias, return_quant_tensor=return_quant_tensor)
    with pytest.raises(QuantLayerConfigurationError) as caught:
        layer(torch.randn(2, 4))
    message = str(caught.value)
    assert isinstance(caught.value, RuntimeError) and isinstance(caught.value, AssertionError)
    assert "QuantLayer is not correctly configured" in message
    assert "Input scale required" in message
    assert "Pass a QuantTensor, set `input_quant`" in message
    assert "Layer: QuantLinear(in_features=4, out_features=3, bias=True)" in message


@pytest.mark.parametrize(
    "build",
    [
        lambda: qnn.QuantLinear(4, 3, return_quant_tensor=True),
        lambda: qnn.QuantIdentity(act_quant=None, return_quant_tensor=True),
        lambda: qnn.QuantLinear(4, 3, weight_quant=None, return_quant_tensor=True),
    ],
)
def test_return_quant_tensor_without_quantization(build):
    layer = build()
    with pytest.raises(QuantLayerConfigurationError) as caught:
        layer(torch.randn(2, 4))
    message = str(caught.value)
    name = type(layer).__name__
    assert f"return_quant_tensor=True on {name}(" in message
    assert "but its output is not quantized" in message
    assert "set return_quant_tensor=False" in message


@pytest.mark.parametrize(
    "fields",
    [
        {"value": torch.tensor([0.25, 0.3])},
        {"value": torch.tensor([1e3, 0.0])},
        {"signed": False, "value": torch.tensor([-1.0, 1.0])},
    ],
    ids=["between integers", "out of range", "sign"],
)
def test_quant_tensor_whose_fields_do_not_match(fields):
    good = {
        "value": torch.tensor([1.0, -2.0]),
        "scale": torch.tensor(1.0),
        "zero_point": torch.tensor(0.0),
        "bit_width": torch.tensor(8.0),
        "signed": True,
        "training": False,
    }
    assert IntQuantTensor(**good).is_valid
    bad = IntQuantTensor(**{**good, **fields})
    assert not bad.is_valid
    with pytest.raises(RuntimeError, match="QuantTensor not valid") as caught:
        bad.int()
    assert "IntQuantTensor not valid." in str(caught.value)


@pytest.mark.parametrize(
    ("field", "given", "error", "message"),
    [
        ("scale", torch.ones(3), ValueError, "scale of shape (3,), value of shape (2,)"),
        ("zero_point", torch.ones(3), ValueError, "zero_point of shape (3,), value of shape (2,)"),
        ("bit_width", torch.ones(2, 2), ValueError, "bit_width of shape (2, 2)"),
        ("scale", None, TypeError, "IntQuantTensor(scale=None): expected a tensor or a number"),
        ("value", [1.0], TypeError, "IntQuantTensor(value=[1.0]): expected a tensor"),
        ("bit_width", 3.5, ValueError, "bit_width=3.5): expected a whole number >= 1"),
    ],
)
def test_quant_tensor_refuses_fields_that_cannot_match(field, given, error, message):
    fields = {"value": torch.tensor([1.0, -2.0]), "scale": 1.0, "zero_point": 0.0, "bit_width": 8}
    with pytest.raises(error, match=re.escape(message)):
        IntQuantTensor(**{**fields, field: given}, signed=True, training=False)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: qnn.QuantLinear(2, 2, weight_quant=Int8ActPerTensorFloat),
            "weight_quant=Int8ActPerTensorFloat: its proxy is ActQuantProxyFromInjector, expected "
            "a quantizer whose proxy is a WeightQuantProxyFromInjectorBase. Layer: QuantLinear",
        ),
        (
            lambda: qnn.QuantReLU(act_quant=Int8WeightPerTensorFloat),
            "act_quant=Int8WeightPerTensorFloat: its proxy is WeightQuantProxyFromInjector, "
            "expected a quantizer whose proxy is a ActQuantProxyFromInjectorBase. "
            "Layer: QuantReLU",
        ),
    ],
)
def test_quantizer_of_another_role(build, message):
    with pytest.raises(TypeError) as caught:
        build()
    assert str(caught.value) == message


def test_every_failure_in_one_process():
    """One failed resolution used to leave its mark on the class: resolve bad and good in turn."""
    for _ in range(3):
        with pytest.raises(DependencyError):
            qnn.QuantReLU(act_quant=Uint8ActPerTensorFloatMaxInit)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            layer = qnn.QuantReLU(act_quant=Uint8ActPerTensorFloatMaxInit, max_val=2.0)
        torch.testing.assert_close(layer.act_quant.scale(), torch.tensor(2.0 / 255))
