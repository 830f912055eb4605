"""TVMCon tutorial, introduction and cell 1: the package, and the layer `QuantLinear`."""

from __future__ import annotations

import inspect
from importlib.metadata import metadata, requires
from typing import Any

import pytest
import torch
from torch import nn

import brevitas
import brevitas.nn.quant_conv
import brevitas.nn.quant_linear
from brevitas.nn import (
    QuantConv1d,
    QuantConv2d,
    QuantConvTranspose1d,
    QuantConvTranspose2d,
    QuantLinear,
)
from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer
from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerTensorFloat, Int16Bias

# Each layer, the module of PyTorch that it stands for, and the shape of an input.
LAYERS = [
    (QuantLinear, nn.Linear, (2,), (1, 2)),
    (QuantConv1d, nn.Conv1d, (2, 3), (1, 2, 5)),
    (QuantConv2d, nn.Conv2d, (2, 3), (1, 2, 5, 5)),
    (QuantConvTranspose1d, nn.ConvTranspose1d, (2, 3), (1, 2, 5)),
    (QuantConvTranspose2d, nn.ConvTranspose2d, (2, 3), (1, 2, 5, 5)),
]


def test_s0_01_the_package_installs_under_its_name_with_torch_alone() -> None:
    assert metadata("brevitas")["Name"] == brevitas.__name__
    required = [entry for entry in requires("brevitas") or () if "extra ==" not in entry]
    assert [entry.partition(">=")[0] for entry in required] == ["torch"]
    for bound in (metadata("brevitas")["Requires-Python"], *required):
        assert ">=" in bound and "<" not in bound, f"{bound}: refuses later versions"


def test_s0_02_signature_and_source_of_quant_linear() -> None:
    source = inspect.getsource(QuantLinear.__init__)
    parameters = inspect.signature(QuantLinear.__init__).parameters
    printed = {
        "self": inspect.Parameter.empty,
        "in_features": inspect.Parameter.empty,
        "out_features": inspect.Parameter.empty,
        "bias": True,  # printed without a default; today's layers have one, as those of PyTorch
        "weight_quant": Int8WeightPerTensorFloat,
        "bias_quant": None,
        "input_quant": None,
        "output_quant": None,
        "return_quant_tensor": False,
    }
    assert source.lstrip().startswith("def __init__(")
    found = {name: parameter.default for name, parameter in parameters.items()}
    assert list(found.items())[: len(printed)] == list(printed.items())
    assert [*parameters][-1] == "kwargs"
    assert parameters["kwargs"].kind is inspect.Parameter.VAR_KEYWORD


def test_s0_02_arguments_are_taken_in_the_printed_order() -> None:
    input_quant, weight_quant = Int8ActPerTensorFloat, Int8WeightPerTensorFloat
    layer = QuantLinear(2, 4, False, weight_quant, None, input_quant, None, True)
    assert layer.bias is None and layer.return_quant_tensor
    assert layer.input_quant.is_quant_enabled and not layer.output_quant.is_quant_enabled


@pytest.mark.parametrize(("layer", "float_layer", "sizes", "shape"), LAYERS)
def test_s0_03_every_layer_quantizes_weight_bias_input_and_output(
    layer: Any, float_layer: Any, sizes: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    assert issubclass(layer, QuantWeightBiasInputOutputLayer) and issubclass(layer, float_layer)
    quantized = layer(
        sizes[0],
        4,
        *sizes[1:],
        bias=True,
        bias_quant=Int16Bias,
        input_quant=Int8ActPerTensorFloat,
        output_quant=Int8ActPerTensorFloat,
        return_quant_tensor=True,
    )
    for role in ("weight_quant", "bias_quant", "input_quant", "output_quant"):
        assert getattr(quantized, role).is_quant_enabled, role
    output = quantized(torch.randn(shape))
    # The output's quantizer comes last: 8 bits, not the 17 or more of the accumulator.
    assert output.bit_width == 8 and output.is_valid
    assert output.shape == float_layer(sizes[0], 4, *sizes[1:])(torch.randn(shape)).shape


def test_s0_03_the_short_name_of_the_base_class() -> None:
    assert brevitas.nn.quant_linear.QuantWBIOL is QuantWeightBiasInputOutputLayer
    assert brevitas.nn.quant_conv.QuantWBIOL is QuantWeightBiasInputOutputLayer


def test_s0_04_only_the_weight_is_quantized_by_default() -> None:
    layer = QuantLinear(2, 4, bias=True)
    roles = ("weight_quant", "bias_quant", "input_quant", "output_quant")
    assert [getattr(layer, role).is_quant_enabled for role in roles] == [True, False, False, False]
    torch.manual_seed(1)
    default = QuantLinear(2, 4, bias=True).quant_weight()
    torch.manual_seed(1)
    named = QuantLinear(2, 4, bias=True, weight_quant=Int8WeightPerTensorFloat).quant_weight()
    assert torch.equal(default.value, named.value) and default.bit_width == 8
