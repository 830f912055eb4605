"""Proxies of weights and biases: sharing, re-initialisation, what is kept between evaluations."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import brevitas.nn as qnn
from brevitas import config
from brevitas.common import QuantLayerConfigurationError
from brevitas.core.utils import StatelessBuffer
from brevitas.inject import DependencyError
from brevitas.inject.enum import BitWidthImplType, ScalingImplType
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8BiasPerTensorFloatInternalScaling,
    Int8WeightPerChannelFloat,
    Int8WeightPerTensorFloat,
    Int16Bias,
)
from brevitas.quant_tensor import IntQuantTensor

LearnedWeight = Int8WeightPerTensorFloat.let(scaling_impl_type=ScalingImplType.PARAMETER_FROM_STATS)


def linear(**keywords):
    return qnn.QuantLinear(4, 6, **keywords)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class TestWeight:
    def test_fields(self):
        layer = linear(weight_bit_width=4)
        proxy = layer.weight_quant
        torch.testing.assert_close(proxy.scale(), layer.weight.abs().max() / 7)
        assert proxy.zero_point() == 0 and proxy.bit_width() == 4
        assert proxy.max_uint_value(torch.tensor(4.0)) == 14  # narrow range
        assert proxy.retrieve_attribute("signed") is True
        assert proxy.tracked_parameter_list[0] is layer.weight
        assert not proxy.requires_quant_input

    @pytest.mark.parametrize("weight_quant", [Int8WeightPerTensorFloat, Int8WeightPerChannelFloat])
    def test_shared_scale_covers_all_weights(self, weight_quant):
        layers = [linear(weight_quant=weight_quant)]
        for _ in range(2):
            layers.append(linear(weight_quant=layers[0].weight_quant))
        assert all(other.weight_quant is layers[0].weight_quant for other in layers)
        magnitudes = torch.stack([other.weight.abs() for other in layers])
        per_channel = weight_quant is Int8WeightPerChannelFloat
        largest = magnitudes.amax((0, 2)).reshape(6, 1) if per_channel else magnitudes.max()
        for other in layers:
            torch.testing.assert_close(other.quant_weight().scale, largest / 127)
            assert other.quant_weight().value.shape == (6, 4)

    def test_shared_scale_passes_its_gradient_to_the_largest_weight(self):
        first = linear()
        second = linear(weight_quant=first.weight_quant)
        with torch.no_grad():
            second.weight[1, 2] = 9.0
        first.quant_weight().scale.backward()
        assert second.weight.grad[1, 2] == pytest.approx(1 / 127)
        assert first.weight.grad is None or not first.weight.grad.any()

    def test_shared_learned_scale_starts_from_all_weights(self):
        first = linear(weight_quant=LearnedWeight)
        second = linear(weight_quant=first.weight_quant)
        largest = max(float(m.weight.detach().abs().max()) for m in (first, second))
        assert float(first.quant_weight().scale.detach()) == pytest.approx(largest / 127)

    def test_shared_between_different_layers(self):
        first = qnn.QuantConv2d(2, 3, 3)
        second = qnn.QuantLinear(4, 6, weight_quant=first.weight_quant)
        largest = torch.cat([first.weight.flatten(), second.weight.flatten()]).abs().max()
        torch.testing.assert_close(second.quant_weight().scale, largest / 127)

    def test_initialise_again_after_an_in_place_change(self):
        layer = linear(weight_quant=LearnedWeight)
        layer.quant_weight()
        parameter = layer.weight_quant.tensor_quant.scaling_impl.value
        with torch.no_grad():
            layer.weight.mul_(3.0)
        expected = layer.weight.detach().abs().max() / 127
        assert layer.quant_weight().scale < expected / 2
        layer.weight_quant.init_tensor_quant(preserve_state_dict=True)
        assert layer.quant_weight().scale < expected / 2
        layer.weight_quant.init_tensor_quant()
        torch.testing.assert_close(layer.quant_weight().scale.detach(), expected)
        assert layer.weight_quant.tensor_quant.scaling_impl.value is parameter

    def test_initialise_again_on_loading(self):
        layer = linear(weight_bit_width_impl_type=BitWidthImplType.PARAMETER)
        state = {"weight": layer.weight.detach() * 3, "bias": layer.bias.detach()}
        with torch.no_grad():
            layer.weight_quant.tensor_quant.msb_clamp_bit_width_impl.bit_width_offset.fill_(3.0)
        with config.overrides(REINIT_ON_STATE_DICT_LOAD=False):
            layer.load_state_dict(state, strict=False)
        assert layer.weight_quant.bit_width() == 5
        layer.load_state_dict(state, strict=False)
        assert layer.weight_quant.bit_width() == 8


class TestLoading:
    """A checkpoint's values win over what the weights suggest, and parts stay what they were."""

    def build(self):
        return linear(
            weight_quant=LearnedWeight, weight_bit_width_impl_type=BitWidthImplType.PARAMETER
        )

    @pytest.mark.parametrize("assign", [False, True])
    @pytest.mark.parametrize("reinit", [False, True])
    def test_own_state_changes_nothing(self, assign, reinit):
        """The state dict shares memory with the parameters that loading may reset first."""
        layer = self.build()
        layer.quant_weight()
        quant = layer.weight_quant.tensor_quant
        with torch.no_grad():
            quant.scaling_impl.value.fill_(0.625)
            quant.msb_clamp_bit_width_impl.bit_width_offset.fill_(3.0)
            layer.weight.mul_(7.0)
        before = {key: value.clone() for key, value in layer.state_dict().items()}
        assert len(before) == 4
        with config.overrides(REINIT_ON_STATE_DICT_LOAD=reinit):
            layer.load_state_dict(layer.state_dict(), assign=assign)
        assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())
        assert layer.weight_quant.tensor_quant is quant
        assert layer.weight_quant.scale().item() == pytest.approx(0.625 / 15)

    def test_scale_of_another_layer(self):
        source, target = self.build(), self.build()
        for layer in (source, target):
            layer.quant_weight()
        with torch.no_grad():
            source.weight_quant.tensor_quant.scaling_impl.value.fill_(0.625)
        target.load_state_dict(source.state_dict())
        assert torch.equal(target.quant_weight().value, source.quant_weight().value)

    @pytest.mark.parametrize(
        "again",
        [
            lambda layer: layer.load_state_dict(layer.state_dict()),
            lambda layer: layer.load_state_dict({"weight": layer.weight}, strict=False),
            lambda layer: layer.weight_quant.init_tensor_quant(),
            lambda layer: layer.weight_quant.init_tensor_quant(preserve_state_dict=True),
        ],
        ids=["own state", "weight alone", "initialise", "preserve"],
    )
    def test_hooks_and_replaced_parts_survive(self, again):
        class Doubled(nn.Module):
            def __init__(self, scaling_impl):
                super().__init__()
                self.scaling_impl = scaling_impl

            def forward(self, *arguments):
                return 2 * self.scaling_impl(*arguments)

        layer = linear(weight_quant=LearnedWeight)
        calls = []
        quant = layer.weight_quant.tensor_quant
        quant.int_quant.register_forward_hook(lambda *arguments: calls.append(1))
        quant.scaling_impl = Doubled(quant.scaling_impl)
        before = layer.quant_weight().scale.detach().clone()
        again(layer)
        current = layer.weight_quant.tensor_quant
        assert current is quant and type(current.scaling_impl) is Doubled
        calls.clear()
        assert torch.equal(layer.quant_weight().scale.detach(), before) and calls == [1]

    def test_a_constant_follows_the_declaration(self):
        """The bit width written over by hand is a value, and starts anew as values do."""
        layer = linear()
        proxy = layer.weight_quant
        proxy.tensor_quant.msb_clamp_bit_width_impl.bit_width = StatelessBuffer(3.0)
        assert proxy.bit_width() == 3
        proxy.init_tensor_quant()
        assert proxy.bit_width() == 8
        torch.testing.assert_close(proxy.scale(), layer.weight.abs().max() / 127)


class TestInjector:
    """`quant_injector` answers as the quantizer is built, and takes another declaration."""

    def test_resolves(self):
        layer = linear(weight_quant=Int8WeightPerChannelFloat, weight_bit_width=5)
        injector = layer.weight_quant.quant_injector
        assert tuple(injector.scaling_shape) == (6, 1) and injector.bit_width == 5
        assert injector.module is layer and injector.proxy_module is layer.weight_quant
        assert linear().weight_quant.quant_injector.scaling_shape == ()

    def test_of_shared_quantizers(self):
        first = linear()
        second = linear(weight_quant=first.weight_quant)
        assert second.weight_quant.quant_injector.module == (first, second)

    def test_assigned(self):
        layer = linear()
        proxy = layer.weight_quant
        proxy.quant_injector = proxy.quant_injector.let(bit_width=3)
        assert proxy.quant_injector.bit_width == 3 and proxy.bit_width() == 8
        proxy.init_tensor_quant()
        assert proxy.bit_width() == 3
        torch.testing.assert_close(proxy.scale(), layer.weight.abs().max() / 3)

    def test_assigned_another_class(self):
        proxy = linear().weight_quant
        proxy.quant_injector = Int8WeightPerChannelFloat
        proxy.init_tensor_quant()
        assert proxy.scale().shape == (6, 1)


class TestSharing:
    def test_a_scale_per_channel_needs_equal_channels(self):
        first = linear(weight_quant=Int8WeightPerChannelFloat)
        with pytest.raises(DependencyError, match=r"\(6, 4\), \(5, 4\).*output channels in each"):
            qnn.QuantLinear(4, 5, weight_quant=first.weight_quant)
        first = linear(weight_quant=Int8WeightPerChannelFloat)
        with pytest.raises(DependencyError, match=r"\(6, 4\), \(6, 4, 3\).*dimensions"):
            qnn.QuantConv1d(4, 6, 3, weight_quant=first.weight_quant)

    def test_a_refused_share_leaves_the_quantizer_alone(self):
        first = linear(weight_quant=Int8WeightPerChannelFloat)
        before = first.quant_weight()
        with pytest.raises(DependencyError):
            qnn.QuantLinear(4, 5, weight_quant=first.weight_quant)
        assert first.weight_quant.tracked_module_list == [first]
        assert first.weight_quant.is_quant_enabled
        assert torch.equal(first.quant_weight().value, before.value)
        kept = first.weight_quant.tensor_quant
        first.weight_quant.init_tensor_quant()
        assert first.weight_quant.tensor_quant is kept  # reset in place, as ever

    def test_other_inputs_share_a_scale_per_channel(self):
        first = linear(weight_quant=Int8WeightPerChannelFloat)
        second = qnn.QuantLinear(9, 6, weight_quant=first.weight_quant)
        largest = torch.cat([first.weight, second.weight], 1).abs().amax(1, keepdim=True)
        torch.testing.assert_close(second.quant_weight().scale, largest / 127)

    @pytest.mark.parametrize("keyword", ["weight_bit_width", "bias_bit_width"])
    def test_keywords_beside_a_shared_quantizer_warn(self, keyword):
        first = linear(bias_quant=Int8BiasPerTensorFloatInternalScaling)
        name = keyword.split("_")[0] + "_quant"
        with pytest.warns(UserWarning, match=f"{keyword}=4.*{name} is shared here"):
            second = linear(**{name: getattr(first, name), keyword: 4})
        assert getattr(second, name).bit_width() == 8


class TestKeptWeight:
    """`cache_inference_quant_weight`: kept in evaluation, dropped by everything that changes it."""

    def test_nothing_is_kept_unasked(self):
        layer = linear().eval()
        before = layer.quant_weight().value
        layer.weight.data.mul_(2.0)
        assert not torch.equal(layer.quant_weight().value, before)

    def test_kept_in_evaluation_only(self):
        layer = linear()
        proxy = layer.weight_quant
        proxy.cache_inference_quant_weight = True
        assert layer.quant_weight() is not layer.quant_weight()
        first = layer.eval().quant_weight()
        kept = layer.quant_weight()
        assert layer.quant_weight() is kept and torch.equal(kept.value, first.value)
        assert not kept.value.requires_grad and proxy.scale() is kept.scale
        layer.train()
        assert layer.quant_weight().value.requires_grad

    @pytest.mark.parametrize(
        "change",
        [
            lambda layer: layer.train().eval(),
            lambda layer: layer.load_state_dict(layer.state_dict()),
            lambda layer: layer.register_parameter("weight", nn.Parameter(layer.weight.detach())),
            lambda layer: setattr(layer, "weight", nn.Parameter(layer.weight.detach())),
            lambda layer: layer.weight_quant.init_tensor_quant(),
            lambda layer: setattr(layer.weight_quant, "cache_inference_quant_weight", True),
            lambda layer: linear(weight_quant=layer.weight_quant),
            lambda layer: layer.double().float(),
        ],
        ids=["train", "load", "register", "assign", "initialise", "flag", "share", "double"],
    )
    def test_dropped_by(self, change):
        layer = linear().eval()
        layer.weight_quant.cache_inference_quant_weight = True
        layer.quant_weight()
        layer.weight.data.mul_(2.0)  # leaves no trace
        change(layer)
        largest = max(m.weight.abs().max() for m in layer.weight_quant.tracked_module_list)
        torch.testing.assert_close(layer.quant_weight().scale.detach(), largest.detach() / 127)

    def test_another_dtype(self):
        layer = linear().eval()
        layer.weight_quant.cache_inference_quant_weight = True
        layer.quant_weight()
        layer.double()
        assert layer.quant_weight().value.dtype is torch.float64
        assert layer(torch.randn(2, 4, dtype=torch.float64)).dtype is torch.float64

    def test_off_is_off(self):
        layer = linear().eval()
        layer.weight_quant.cache_inference_quant_weight = True
        layer.quant_weight()
        layer.weight_quant.cache_inference_quant_weight = False
        layer.weight.data.mul_(2.0)
        expected = layer.weight.detach().abs().max() / 127
        torch.testing.assert_close(layer.weight_quant.scale().detach(), expected)

    @pytest.mark.parametrize("metadata_only", [True, False])
    def test_kept_in_inference_mode_and_used_outside(self, metadata_only):
        """A tensor made in inference mode cannot take part in a backward pass."""
        layer = linear().eval()
        layer.weight_quant.cache_inference_quant_weight_metadata_only = metadata_only
        layer.weight_quant.cache_inference_quant_weight = True
        x = torch.randn(2, 4, requires_grad=True)
        with torch.inference_mode():
            inside = layer(x)
        layer(x).sum().backward()
        torch.testing.assert_close(x.grad, layer.quant_weight().value.sum(0).expand(2, 4))
        assert torch.equal(layer(x), inside)

    def test_metadata_only(self):
        layer = linear().eval()
        proxy = layer.weight_quant
        proxy.cache_inference_quant_weight_metadata_only = True
        proxy.cache_inference_quant_weight = True
        first = layer.quant_weight()
        assert layer.quant_weight() is not first
        assert torch.equal(layer.quant_weight().value, first.value)
        kept = proxy._cached_weight.find(layer.weight)
        assert kept.quant_tensor.value is None and kept.shape == (6, 4)
        assert torch.equal(proxy.scale(), first.scale)

    @pytest.mark.parametrize("metadata_only", [True, False])
    @pytest.mark.parametrize("weight_quant", [Int8WeightPerTensorFloat, Int8WeightPerChannelFloat])
    def test_layers_that_share_a_quantizer_keep_each_their_own(self, weight_quant, metadata_only):
        first = linear(weight_quant=weight_quant)
        second = linear(weight_quant=first.weight_quant)
        proxy, x = first.weight_quant, torch.randn(2, 4)
        model = nn.ModuleList([first, second]).eval()
        expected = [layer(x) for layer in model]
        assert not torch.equal(*expected)
        proxy.cache_inference_quant_weight_metadata_only = metadata_only
        proxy.cache_inference_quant_weight = True
        for _ in range(3):
            assert all(torch.equal(m(x), y) for m, y in zip(model, expected, strict=True))
        compiled = [torch.compile(m, backend="eager", fullgraph=True) for m in model]
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), compiled):
            assert all(torch.equal(m(x), y) for m, y in zip(other, expected, strict=True))
        if not metadata_only:
            kept = [layer.quant_weight() for layer in model]
            assert all(m.quant_weight() is k for m, k in zip(model, kept, strict=True))

    def test_another_tensor_is_not_what_was_kept(self):
        layer = linear().eval()
        layer.weight_quant.cache_inference_quant_weight = True
        kept = layer.quant_weight()
        other = torch.randn(3, 2)
        assert layer.weight_quant(other).shape == (3, 2)
        assert layer.quant_weight().value is kept.value or torch.equal(
            layer.quant_weight().value, kept.value
        )

    def test_a_parametrized_weight_is_quantized_anew(self):
        layer = linear().eval()
        parametrize.register_parametrization(layer, "weight", nn.Tanh())
        layer.weight_quant.cache_inference_quant_weight = True
        before = layer.quant_weight().value
        layer.parametrizations.weight.original.data.mul_(2.0)
        assert not torch.equal(layer.quant_weight().value, before)


def test_biases_that_share_a_quantizer_keep_each_their_own():
    first = linear(bias_quant=Int8BiasPerTensorFloatInternalScaling, cache_inference_bias=True)
    second = linear(bias_quant=first.bias_quant, cache_inference_bias=True)
    layers = nn.ModuleList([first, second])
    expected = [layer.quant_bias().value.detach() for layer in layers]
    assert not torch.equal(*expected)
    layers.eval()
    for _ in range(2):
        for layer, value in zip(layers, expected, strict=True):
            assert torch.equal(layer.quant_bias().value, value)


class TestBias:
    def test_scale_of_the_accumulator(self):
        layer = linear(bias_quant=Int16Bias, input_quant=Int8ActPerTensorFloat)
        x = torch.randn(3, 4)
        quant_input, quant_weight = layer.input_quant(x), layer.quant_weight()
        proxy = layer.bias_quant
        assert proxy.requires_input_scale
        assert proxy.scale() is None
        scale = proxy.compute_bias_scale(quant_input, quant_weight)
        torch.testing.assert_close(scale, (quant_input.scale * quant_weight.scale).reshape(1))
        assert proxy.compute_bias_scale(x, quant_weight) is None
        quant_bias = proxy(layer.bias, quant_input, quant_weight)
        assert isinstance(quant_bias, IntQuantTensor) and quant_bias.is_valid
        expected = (layer.bias / scale).round().clamp(-(2**15), 2**15 - 1) * scale
        torch.testing.assert_close(quant_bias.value, expected)

    def test_scale_per_channel(self):
        layer = linear(
            bias_quant=Int16Bias,
            input_quant=Int8ActPerTensorFloat,
            weight_quant=Int8WeightPerChannelFloat,
        )
        quant_input = layer.input_quant(torch.randn(3, 4))
        quant_bias = layer.bias_quant(layer.bias, quant_input, layer.quant_weight())
        assert quant_bias.scale.shape == (6,)

    def test_own_scale(self):
        layer = linear(bias_quant=Int8BiasPerTensorFloatInternalScaling)
        proxy = layer.bias_quant
        assert not proxy.requires_input_scale
        torch.testing.assert_close(proxy.scale(), layer.bias.abs().max() / 128)
        assert proxy.bit_width() == 8 and proxy.zero_point() == 0

    @pytest.mark.parametrize("disabled", ["input_quant", "weight_quant"])
    def test_scale_goes_missing(self, disabled):
        layer = linear(bias_quant=Int16Bias, input_quant=Int8ActPerTensorFloat)
        layer(torch.randn(2, 4))
        getattr(layer, disabled).disable_quant = True
        with pytest.raises(QuantLayerConfigurationError, match="Input scale required"):
            layer(torch.randn(2, 4))
        layer.bias_quant.disable_quant = True
        layer(torch.randn(2, 4))

    def test_layer_without_bias_builds_no_quantizer(self):
        layer = linear(bias=False, bias_quant=Int16Bias, input_quant=Int8ActPerTensorFloat)
        assert layer.bias_quant.tensor_quant is None
        assert not layer.bias_quant.is_quant_enabled
        assert layer.quant_bias() is None

    def test_shared(self):
        first = linear(bias_quant=Int8BiasPerTensorFloatInternalScaling)
        second = linear(bias_quant=first.bias_quant)
        largest = torch.stack([first.bias, second.bias]).abs().max()
        torch.testing.assert_close(second.quant_bias().scale, largest / 128)


class TestKeptBias:
    """`cache_inference_bias`: the last evaluation's bias, and its scale, can be read afterwards."""

    def build(self, **keywords):
        return linear(bias_quant=Int16Bias, input_quant=Int8ActPerTensorFloat, **keywords)

    def test_unknown_before_and_after_without_it(self):
        layer = self.build()
        layer(torch.randn(2, 4))
        layer.eval()(torch.randn(2, 4))
        assert layer.bias_quant.scale() is None
        assert layer.bias_quant.get_cached("scale") is None
        with pytest.raises(QuantLayerConfigurationError, match="Input scale required"):
            layer.quant_bias()

    def test_kept_after_an_evaluation(self):
        layer = self.build(cache_inference_bias=True)
        x = torch.randn(2, 4)
        layer(x)
        assert layer.bias_quant.scale() is None
        expected = layer.eval()(x)
        scale = layer.input_quant.scale() * layer.weight_quant.scale()
        torch.testing.assert_close(layer.bias_quant.scale(), scale.detach().reshape(1))
        assert layer.quant_bias() is layer.quant_bias()
        assert layer.bias_quant.bit_width() == 16
        assert torch.equal(layer(x), expected)

    def test_kept_in_inference_mode_and_used_outside(self):
        layer = self.build(cache_inference_bias=True)
        layer(torch.randn(2, 4))
        layer.eval()
        with torch.inference_mode():
            layer(torch.randn(2, 4))
        x = torch.randn(2, 4, requires_grad=True)
        layer(x).square().sum().backward()
        assert bool(x.grad.isfinite().all())
        assert layer.bias_quant.scale() is not None

    @pytest.mark.parametrize(
        "change",
        [
            lambda layer: layer.train().eval(),
            lambda layer: layer.load_state_dict(layer.state_dict()),
            lambda layer: layer.register_parameter("bias", nn.Parameter(layer.bias.detach())),
            lambda layer: setattr(layer.bias_quant, "cache_inference_quant_bias", False),
        ],
        ids=["train", "load", "register", "flag"],
    )
    def test_dropped_by(self, change):
        layer = self.build(cache_inference_bias=True)
        layer(torch.randn(2, 4))
        layer.eval()(torch.randn(2, 4))
        change(layer)
        assert layer.bias_quant.scale() is None
        layer.bias_quant.cache_inference_quant_bias = True
        assert layer.bias_quant.scale() is None

    def test_metadata_only(self):
        layer = self.build(cache_inference_bias=True)
        layer.bias_quant.cache_inference_quant_bias_metadata_only = True
        layer(torch.randn(2, 4))
        layer.eval()(torch.randn(2, 4))
        before = layer.quant_bias()
        layer.bias.data.mul_(2.0)
        after = layer.quant_bias()
        torch.testing.assert_close(after.scale, before.scale)
        assert not torch.equal(after.value, before.value)


def test_a_new_weight_of_another_shape_has_scales_of_its_own():
    layer = qnn.QuantLinear(10, 3, weight_scaling_per_output_channel=True)
    layer.quant_weight()
    layer.weight = nn.Parameter(torch.randn(5, 7))
    assert layer.quant_weight().scale.shape == (5, 1)
