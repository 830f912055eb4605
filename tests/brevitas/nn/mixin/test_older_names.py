"""Names of earlier releases give what their home of today gives, and hide nothing."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import brevitas.nn as qnn
from brevitas.common import QuantLayerConfigurationError
from brevitas.nn.mixin import (
    QuantBiasMixin,
    QuantInputMixin,
    QuantNonLinearActMixin,
    QuantOutputMixin,
    QuantWeightMixin,
)
from brevitas.nn.mixin._older_names import TENSORS, older_names
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8BiasPerTensorFloatInternalScaling,
    Int8WeightPerTensorFloat,
    Int16Bias,
    Uint8ActPerTensorFloat,
)

DOCUMENT = Path(__file__).resolve().parents[4] / "docs" / "older_names.md"
MIXINS = {
    "weight": QuantWeightMixin,
    "bias": QuantBiasMixin,
    "input": QuantInputMixin,
    "output": QuantOutputMixin,
    "act": QuantNonLinearActMixin,
}
LAYERS = [getattr(qnn, name) for name in qnn.__all__]
NAMES = [(tensor, name) for tensor in TENSORS for name in older_names(tensor)]


class UserConv(qnn.QuantConv2d):
    """A layer of a user's own."""


class UserReLU(qnn.QuantReLU):
    """An activation of a user's own."""


@pytest.fixture(params=[qnn.QuantConv2d, UserConv], ids=lambda layer: layer.__name__)
def conv(request):
    """A layer in which everything is quantized, each tensor in its own way."""
    return request.param(
        2,
        3,
        3,
        weight_bit_width=4,
        bias_quant=Int8BiasPerTensorFloatInternalScaling,
        bias_bit_width=6,
        input_quant=Uint8ActPerTensorFloat,
        output_quant=Int8ActPerTensorFloat,
        output_bit_width=5,
    )


@pytest.fixture(params=[qnn.QuantReLU, UserReLU], ids=lambda layer: layer.__name__)
def relu(request):
    return request.param(bit_width=3, input_quant=Int8ActPerTensorFloat, input_bit_width=7)


@pytest.mark.parametrize(
    ("tensor", "signed", "narrow", "bits"),
    [("weight", True, True, 4), ("bias", True, False, 6), ("input", False, False, 8),
     ("output", True, False, 5)],
)  # fmt: skip
def test_quantizers_of_a_convolution(conv, tensor, signed, narrow, bits):
    conv(torch.rand(1, 2, 5, 5))
    proxy = getattr(conv, f"{tensor}_quant")
    assert getattr(conv, f"is_{tensor}_quant_enabled") is True
    assert getattr(conv, f"is_quant_{tensor}_signed") is signed
    assert getattr(conv, f"is_quant_{tensor}_narrow_range") is narrow
    assert getattr(conv, f"quant_{tensor}_bit_width")() == bits
    assert getattr(conv, f"quant_{tensor}_zero_point")() == 0
    scale = getattr(conv, f"quant_{tensor}_scale")()
    assert scale > 0 and torch.equal(scale, proxy.scale())


def test_quantizers_of_an_activation(relu):
    relu(torch.randn(8))
    assert relu.is_act_quant_enabled is True and relu.is_input_quant_enabled is True
    assert relu.is_quant_act_signed is False and relu.is_quant_input_signed is True
    assert relu.is_quant_act_narrow_range is False
    assert relu.quant_act_bit_width() == 3 and relu.quant_input_bit_width() == 7
    assert torch.equal(relu.quant_act_scale(), relu.act_quant.scale())
    assert relu.quant_act_zero_point() == 0


def test_they_follow_the_quantizer(conv):
    conv.weight_quant.disable_quant = True
    assert conv.is_weight_quant_enabled is False


@pytest.mark.parametrize("parameter", ["weight", "bias"])
def test_integers_of_a_parameter(conv, parameter):
    integers = getattr(conv, f"int_{parameter}")
    scale, zero_point = (
        getattr(conv, f"quant_{parameter}_{field}")() for field in ("scale", "zero_point")
    )
    assert integers().dtype == torch.int8
    assert integers(float_datatype=True).dtype == torch.float32
    assert torch.equal(integers(True), integers().float())
    value = getattr(conv, f"quant_{parameter}")().value
    torch.testing.assert_close((integers() - zero_point) * scale, value)


@pytest.mark.parametrize("tensor", TENSORS)
def test_a_tensor_that_is_not_quantized(tensor):
    layer = qnn.QuantReLU(None) if tensor == "act" else qnn.QuantLinear(2, 2, weight_quant=None)
    assert getattr(layer, f"is_{tensor}_quant_enabled") is False
    for name in ("is_quant_{}_signed", "is_quant_{}_narrow_range"):
        assert getattr(layer, name.format(tensor)) is None
    for name in ("quant_{}_scale", "quant_{}_zero_point", "quant_{}_bit_width"):
        assert getattr(layer, name.format(tensor))() is None


@pytest.mark.parametrize("parameter", ["weight", "bias"])
def test_no_integers_where_nothing_is_quantized(parameter):
    layer = qnn.QuantLinear(2, 2, weight_quant=None)
    message = rf"int_{parameter}\(\): {parameter}_quant is None or disabled.*QuantLinear\(in_feat"
    with pytest.raises(QuantLayerConfigurationError, match=message):
        getattr(layer, f"int_{parameter}")()


def test_no_bias():
    layer = qnn.QuantLinear(2, 2, bias=False, bias_quant=Int16Bias)
    assert layer.int_bias() is None and layer.quant_bias_scale() is None


BIAS_NAMES = ["int_bias", "quant_bias_scale", "quant_bias_zero_point", "quant_bias_bit_width"]


@pytest.mark.parametrize("name", BIAS_NAMES)
def test_a_bias_at_the_scale_of_the_accumulator_is_known_after_a_forward(name):
    layer = qnn.QuantLinear(
        3, 2, bias_quant=Int16Bias, input_quant=Int8ActPerTensorFloat, cache_inference_bias=True
    ).eval()
    with pytest.raises(QuantLayerConfigurationError, match="Input scale required"):
        getattr(layer, name)()
    layer(torch.randn(4, 3))
    scale = layer.input_quant.scale() * layer.weight_quant.scale()
    expected = {
        "int_bias": torch.round(layer.bias / scale).to(torch.int16),
        "quant_bias_scale": scale.reshape(1),
        "quant_bias_zero_point": torch.tensor(0.0),
        "quant_bias_bit_width": torch.tensor(16.0),
    }
    torch.testing.assert_close(getattr(layer, name)(), expected[name])


@pytest.mark.parametrize("layer_class", LAYERS)
def test_no_class_of_a_layer_gives_a_name_another_meaning(layer_class):
    for tensor, name in NAMES:
        owners = [base for base in layer_class.__mro__ if name in vars(base)]
        assert owners == ([MIXINS[tensor]] if issubclass(layer_class, MIXINS[tensor]) else [])


def test_a_subclass_may_use_a_name_for_itself():
    class Own(qnn.QuantLinear):
        def quant_weight_scale(self):
            return "own"

    assert Own(2, 2).quant_weight_scale() == "own"


def test_they_are_neither_modules_nor_state(conv, relu):
    for layer in (conv, relu):
        state = {*dict(layer.named_modules()), *layer.state_dict(), *vars(layer)}
        parts = {part for key in state for part in key.split(".")}
        assert parts.isdisjoint(name for _, name in NAMES)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
def test_layers_with_them_copy_pickle_and_trace(conv):
    x = torch.rand(1, 2, 5, 5)
    conv.eval()
    for layer in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        assert torch.equal(layer.int_weight(), conv.int_weight())
    traced = torch.jit.trace(conv, x, check_trace=False)
    assert torch.equal(traced(x), conv(x))


@pytest.mark.parametrize(("tensor", "name"), NAMES)
def test_they_say_what_to_write_today(tensor, name):
    attribute = getattr(MIXINS[tensor], name)
    assert attribute.__doc__ == f"Older name of ``{older_names(tensor)[name].today}``."
    if not isinstance(attribute, property):
        assert attribute.__qualname__ == f"{MIXINS[tensor].__name__}.{name}"


def test_the_document_lists_the_table():
    expected = []
    for tensor in TENSORS:
        for name, (today, attribute) in older_names(tensor).items():
            call = "" if isinstance(attribute, property) else "()"
            expected.append(f"| `layer.{name}{call}` | `layer.{today}` |")
    text = DOCUMENT.read_text(encoding="utf-8")
    assert re.findall(r"^\| `layer\..*$", text, re.MULTILINE) == expected


class Weight(QuantWeightMixin, nn.Module):
    def __init__(self, weight_quant):
        nn.Module.__init__(self)
        self.weight = nn.Parameter(torch.tensor([[-1.0, 0.5]]))
        QuantWeightMixin.__init__(self, weight_quant)


def test_a_layer_made_from_a_mixin_alone():
    layer = Weight(Int8WeightPerTensorFloat)
    assert layer.int_weight().tolist() == [[-127, 64]]
    torch.testing.assert_close(layer.quant_weight_scale(), torch.tensor(1.0 / 127))


class TestPaddingType:
    @pytest.mark.parametrize("dims", [1, 2, 3])
    @pytest.mark.parametrize("stride", [1, 2])
    def test_same(self, dims, stride):
        layer_class = getattr(qnn, f"QuantConv{dims}d")
        older = layer_class(2, 3, 3, stride=stride, padding_type="same", weight_quant=None)
        newer = layer_class(2, 3, 3, stride=stride, padding="same", weight_quant=None)
        newer.load_state_dict(older.state_dict())
        x = torch.randn(1, 2, *[5] * dims)
        assert torch.equal(older(x), newer(x))
        assert older(x).shape[2:] == (-(-5 // stride),) * dims
        assert older.padding_type == newer.padding_type == "same"

    @pytest.mark.parametrize("dims", [1, 2, 3])
    def test_standard_keeps_the_padding(self, dims):
        layer = getattr(qnn, f"QuantConv{dims}d")(2, 3, 3, padding=2, padding_type="standard")
        assert layer.padding == (2,) * dims and layer.padding_type == "standard"

    @pytest.mark.parametrize("padding", [0, (0, 0), [0, 0], "same"])
    def test_no_padding_besides_same(self, padding):
        layer = qnn.QuantConv2d(2, 3, 3, padding=padding, padding_type="same")
        assert layer.padding == "same"

    @pytest.mark.parametrize("padding", [1, (0, 1), [1, 0], "valid"])
    def test_padding_besides_same_is_refused(self, padding):
        message = re.escape(f"padding={padding!r} with padding_type='same': expected padding=0")
        with pytest.raises(ValueError, match=message):
            qnn.QuantConv2d(2, 3, 3, padding=padding, padding_type="same")

    def test_another_type_is_refused(self):
        with pytest.raises(ValueError, match="padding_type='full': expected 'standard' or 'same'"):
            qnn.QuantConv2d(2, 3, 3, padding_type="full")

    @pytest.mark.parametrize("dims", [1, 2, 3])
    def test_transposed_convolutions_have_the_standard_padding_only(self, dims):
        layer_class = getattr(qnn, f"QuantConvTranspose{dims}d")
        layer = layer_class(2, 3, 3, padding=1, padding_type="standard")
        assert layer.padding == (1,) * dims
        with pytest.raises(ValueError, match=r"padding_type='same': expected 'standard'\."):
            layer_class(2, 3, 3, padding_type="same")
