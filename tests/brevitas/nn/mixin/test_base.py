"""Routing of keywords, kinds of quantizers, and how a layer packs its output."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import brevitas.nn as qnn
from brevitas.common import QuantLayerConfigurationError
from brevitas.inject import DependencyError, ExtendedInjector, value
from brevitas.nn.mixin.base import KeywordReport, QuantLayerMixin
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8WeightPerTensorFloat,
    Int16Bias,
    Uint8ActPerTensorFloatMaxInit,
)
from brevitas.quant_tensor import IntQuantTensor


def _warnings_of(build):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        build()
    return caught


class TestUnreadKeywords:
    @pytest.mark.parametrize(
        ("build", "keyword", "nearest"),
        [
            (
                lambda: qnn.QuantLinear(2, 2, weight_bitwidth=3),
                "weight_bitwidth=3",
                "weight_bit_width",
            ),
            (lambda: qnn.QuantReLU(bitwidth=3), "bitwidth=3", "bit_width"),
            (
                lambda: qnn.QuantConv2d(2, 2, 3, weight_scaling_per_output_chanel=True),
                "weight_scaling_per_output_chanel=True",
                "weight_scaling_per_output_channel",
            ),
            (
                lambda: qnn.QuantLinear(2, 2, input_quant=Int8ActPerTensorFloat, input_bits=3),
                "input_bits=3",
                "input_",
            ),
        ],
    )
    def test_warned_about_once_with_the_nearest_name(self, build, keyword, nearest):
        caught = _warnings_of(build)
        assert len(caught) == 1
        message = str(caught[0].message)
        assert caught[0].category is UserWarning
        assert keyword in message and f"Did you mean '{nearest}" in message
        # The warning points to the line that builds the layer.
        assert caught[0].filename == __file__

    def test_names_the_layer(self):
        (caught,) = _warnings_of(lambda: qnn.QuantConv1d(2, 2, 3, weight_bitwidth=3))
        assert str(caught.message).startswith("QuantConv1d: keyword weight_bitwidth=3")

    def test_says_that_there_is_no_quantizer(self):
        (caught,) = _warnings_of(lambda: qnn.QuantLinear(2, 2, input_bit_width=3))
        assert "input_quant is None here, so that input_* has no effect." in str(caught.message)

    def test_each_unread_keyword_is_named(self):
        caught = _warnings_of(lambda: qnn.QuantLinear(2, 2, weight_bitwidth=3, foo=1))
        assert len(caught) == 2

    @pytest.mark.parametrize(
        "build",
        [
            lambda: qnn.QuantLinear(2, 2, weight_bit_width=3),
            lambda: qnn.QuantLinear(2, 2, weight_scaling_per_output_channel=True),
            lambda: qnn.QuantReLU(max_val=6.0, act_quant=Uint8ActPerTensorFloatMaxInit),
            lambda: qnn.QuantReLU(min_val=0.0, max_val=6.0, scaling_impl_type="parameter"),
            lambda: qnn.QuantIdentity(device="cpu", dtype=torch.float64),
            lambda: qnn.QuantLinear(2, 2, device="cpu", dtype=torch.float64),
        ],
    )
    def test_read_keywords_are_silent(self, build):
        assert _warnings_of(build) == []

    def test_names_that_a_users_quantizer_reads_are_silent(self):
        class Scaled(Int8WeightPerTensorFloat):
            @value
            def bit_width(my_bits):
                return 2 * my_bits

        caught = _warnings_of(lambda: qnn.QuantLinear(2, 2, weight_quant=Scaled, weight_my_bits=2))
        assert caught == []
        layer = qnn.QuantLinear(2, 2, weight_quant=Scaled, weight_my_bits=2)
        assert layer.weight_quant.bit_width() == 4


class Pair(nn.Module):
    """A layer of two parts: an activation, and if asked a pair of its own."""

    def __init__(self, depth=0, first_quant=Int8ActPerTensorFloat, **kwargs):
        super().__init__()
        report = KeywordReport(self, kwargs)
        with report.part("first_") as keywords:
            self.first = qnn.QuantIdentity(first_quant, **keywords)
        with report.part("second_") as keywords:
            if depth:
                self.second = Pair(depth - 1, **keywords)
            else:
                self.second = qnn.QuantLinear(2, 2, **keywords)
        report.warn_unused()


class TestParts:
    def test_read_keywords_are_silent(self):
        caught = _warnings_of(
            lambda: Pair(
                first_bit_width=3,
                first_return_quant_tensor=True,
                second_weight_bit_width=4,
                second_input_quant=Int8ActPerTensorFloat,
                second_input_bit_width=5,
            )
        )
        assert caught == []
        assert _warnings_of(lambda: Pair(1, second_first_return_quant_tensor=True)) == []

    def test_keywords_reach_the_parts(self):
        layer = Pair(1, first_bit_width=3, second_second_weight_bit_width=4)
        assert layer.first.act_quant.bit_width() == 3
        assert layer.second.first.act_quant.bit_width() == 8
        assert layer.second.second.weight_quant.bit_width() == 4

    @pytest.mark.parametrize(
        ("depth", "keyword", "hint"),
        [
            (0, "first_bitwidth", "'first_bit_width'?"),
            (0, "second_weight_bitwidth", "'second_weight_bit_width'?"),
            (
                0,
                "second_input_bit_width",
                "second_input_quant is None here, so that second_input_*",
            ),
            (1, "second_second_weight_bitwidth", "'second_second_weight_bit_width'?"),
            (1, "second_second_input_bit_width", "second_second_input_quant is None here"),
            (0, "foo", "by none of its quantizers."),
        ],
    )
    def test_unread_keywords_are_named_as_they_were_written(self, depth, keyword, hint):
        (caught,) = _warnings_of(lambda: Pair(depth, **{keyword: 3}))
        assert str(caught.message).startswith(f"Pair: keyword {keyword}=3")
        assert hint in str(caught.message)

    def test_a_quantizer_that_is_none(self):
        (caught,) = _warnings_of(lambda: Pair(first_quant=None, first_bit_width=3))
        assert "first_quant is None here, so that first_* has no effect." in str(caught.message)

    def test_errors_name_the_keyword_as_it_was_written(self):
        with pytest.raises(ValueError, match="^second_second_weight_bit_width=0: .*Layer: Pair$"):
            Pair(1, second_second_weight_bit_width=0)
        with pytest.raises(TypeError, match="^first_quant=3: .*Layer: Pair$"):
            Pair(first_quant=3)

    def test_after_an_error_layers_report_for_themselves(self):
        with pytest.raises(TypeError):
            Pair(first_quant=3)
        (caught,) = _warnings_of(lambda: qnn.QuantIdentity(bitwidth=3))
        assert str(caught.message).startswith("QuantIdentity: keyword bitwidth=3")


class TestKindOfQuantizer:
    @pytest.mark.parametrize(
        ("build", "given", "expected"),
        [
            (
                lambda: qnn.QuantLinear(2, 2, weight_quant=Int8ActPerTensorFloat),
                "weight_quant=Int8ActPerTensorFloat",
                "WeightQuantProxyFromInjectorBase",
            ),
            (
                lambda: qnn.QuantLinear(2, 2, bias_quant=Int8WeightPerTensorFloat),
                "bias_quant=Int8WeightPerTensorFloat",
                "BiasQuantProxyFromInjectorBase",
            ),
            (
                lambda: qnn.QuantLinear(2, 2, input_quant=Int16Bias),
                "input_quant=Int16Bias",
                "ActQuantProxyFromInjectorBase",
            ),
            (
                lambda: qnn.QuantReLU(act_quant=Int8WeightPerTensorFloat),
                "act_quant=Int8WeightPerTensorFloat",
                "ActQuantProxyFromInjectorBase",
            ),
            (
                lambda: qnn.QuantLinear(2, 2, weight_quant=qnn.QuantReLU().act_quant),
                "weight_quant=a shared ActQuantProxyFromInjector",
                "WeightQuantProxyFromInjectorBase",
            ),
            (
                lambda: qnn.QuantLinear(2, 2, input_quant=qnn.QuantLinear(2, 2).weight_quant),
                "input_quant=a shared WeightQuantProxyFromInjector",
                "ActQuantProxyFromInjectorBase",
            ),
        ],
    )
    def test_wrong_kind(self, build, given, expected):
        with pytest.raises(TypeError) as caught:
            build()
        message = str(caught.value)
        assert given in message and expected in message and "Layer: Quant" in message

    @pytest.mark.parametrize("quantizer", ["int8", 8, torch.nn.Identity(), torch.nn.Identity])
    def test_no_quantizer_at_all(self, quantizer):
        with pytest.raises(TypeError) as caught:
            qnn.QuantLinear(2, 2, weight_quant=quantizer)
        message = str(caught.value)
        assert message.startswith(f"weight_quant={quantizer!r}: expected a quantizer class")
        assert "a proxy to share" in message and "or None" in message
        assert message.endswith("Layer: QuantLinear")

    def test_quantizer_that_is_incomplete(self):
        class Half(ExtendedInjector):
            bit_width = 8

        with pytest.raises(DependencyError, match="'Half' can not resolve attribute 'proxy_class'"):
            qnn.QuantLinear(2, 2, weight_quant=Half)

    def test_error_of_a_part_names_keyword_and_layer(self):
        with pytest.raises(DependencyError) as caught:
            qnn.QuantLinear(2, 2, weight_scaling_impl_type="nope")
        message = str(caught.value)
        assert "scaling_impl_type='nope': expected one of HE, CONST" in message
        assert "Layer: QuantLinear (keywords of this quantizer: weight_...)" in message


class TestPackOutput:
    def test_plain_and_packed(self):
        x = IntQuantTensor(torch.ones(2), 1.0, 0.0, 8, True, False)
        layer = qnn.QuantIdentity()
        assert layer.pack_output(x) is x.value
        layer.return_quant_tensor = True
        assert layer.pack_output(x) is x
        with pytest.raises(QuantLayerConfigurationError, match="return_quant_tensor=True"):
            layer.pack_output(x.value)

    def test_input_is_passed_on(self):
        x = IntQuantTensor(torch.ones(2), 1.0, 0.0, 8, True, False)
        layer = qnn.QuantIdentity()
        assert layer.unpack_input(x) is x
        assert layer.get_quant_tensor_class(x) is IntQuantTensor
        assert layer.get_quant_tensor_class(x.value) is None

    def test_separability_is_declared_by_the_layer(self):
        with pytest.raises(NotImplementedError, match="does not say whether it is separable"):
            _ = QuantLayerMixin(False).channelwise_separable
