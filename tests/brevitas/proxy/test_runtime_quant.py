"""Proxies of activations: sharing, reading, what is kept between evaluations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import brevitas.nn as qnn
from brevitas.inject.enum import ScalingImplType, StatsOp
from brevitas.proxy.runtime_quant import (
    ActQuantProxyFromInjectorBase,
    DynamicActQuantProxyFromInjector,
)
from brevitas.quant import Int8ActPerTensorFloat, Uint8ActPerTensorFloat
from brevitas.quant_tensor import IntQuantTensor


@pytest.fixture
def x():
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def scaling(proxy):
    return proxy.fused_activation_quant_proxy.tensor_quant.scaling_impl


def test_is_quant_enabled_is_assignable(x):
    layer = qnn.QuantReLU()
    layer.act_quant.is_quant_enabled = False
    assert layer.act_quant.disable_quant
    assert torch.equal(layer(x), x.relu())
    layer.act_quant.is_quant_enabled = True
    assert not torch.equal(layer(x), x.relu())


def test_reading_takes_no_step(x):
    layer = qnn.QuantReLU(collect_stats_steps=3)
    layer(x)
    part = scaling(layer.act_quant)
    for _ in range(5):
        layer.act_quant.scale()
        layer.act_quant.zero_point()
        layer.act_quant.bit_width()
    assert part.counter == 1 and part.collecting
    assert layer.act_quant.training and part.training
    torch.testing.assert_close(layer.act_quant.scale(), x.relu().max() / 255)


def test_reading_keeps_the_mode(x):
    layer = qnn.QuantReLU()
    layer(x)
    for mode in (True, False):
        layer.train(mode)
        layer.act_quant.scale()
        assert all(module.training == mode for module in layer.modules())


def test_passthrough(x):
    assert qnn.QuantReLU().act_quant.is_passthrough_act
    assert qnn.QuantIdentity().act_quant.is_passthrough_act
    assert not qnn.QuantSigmoid().act_quant.is_passthrough_act


def test_disabled_passthrough_keeps_the_quant_tensor(x):
    inputs = IntQuantTensor(x.round(), 1.0, 0.0, 8, True, False)
    relu, sigmoid = qnn.QuantReLU().act_quant, qnn.QuantSigmoid().act_quant
    for proxy in (relu, sigmoid):
        proxy.disable_quant = True
    assert torch.equal(relu(inputs).value, x.round().relu())
    assert relu(inputs).scale is inputs.scale
    assert torch.equal(sigmoid(inputs), x.round().sigmoid())


def test_nothing_to_do(x):
    proxy = qnn.QuantLinear(4, 4).input_quant
    assert proxy.fused_activation_quant_proxy is None
    assert proxy(x) is x
    inputs = IntQuantTensor(x.round(), 1.0, 0.0, 8, True, False)
    assert proxy(inputs) is inputs


def test_activation_function_without_quantizer(x):
    layer = qnn.QuantReLU(act_quant=None)
    assert not layer.act_quant.is_quant_enabled
    assert layer.act_quant.scale() is None
    assert torch.equal(layer(x), x.relu())


def test_shared_between_layers(x):
    first = qnn.QuantReLU(collect_stats_steps=2)
    second = qnn.QuantReLU(act_quant=first.act_quant)
    assert second.act_quant is first.act_quant
    assert first.act_quant.tracked_module_list == [first, second]
    first(x)
    second(3 * x)
    assert not scaling(first.act_quant).collecting
    largest = x.relu().max()
    expected = (0.9 * largest + 0.1 * 3 * largest) / 255
    torch.testing.assert_close(second.act_quant.scale().detach(), expected)
    model = nn.ModuleList([first, second])
    assert len(list(model.parameters())) == 1


def test_shared_as_input_quantizer(x):
    identity = qnn.QuantIdentity()
    layer = qnn.QuantLinear(4, 4, input_quant=identity.act_quant)
    layer(x)
    assert layer.input_quant.scale() is not None
    torch.testing.assert_close(identity.act_quant.scale(), x.abs().max() / 128)


def test_dynamic_quantizer(x):
    dynamic = Int8ActPerTensorFloat.let(
        proxy_class=DynamicActQuantProxyFromInjector,
        scaling_impl_type=ScalingImplType.STATS,
        scaling_stats_op=StatsOp.MAX,
    )
    layer = qnn.QuantIdentity(act_quant=dynamic, return_quant_tensor=True)
    torch.testing.assert_close(layer(x).scale, x.abs().max() / 128)
    for read in (layer.act_quant.scale, layer.act_quant.zero_point):
        with pytest.raises(RuntimeError, match="depends on its"):
            read()
    assert layer.act_quant.bit_width() == 8


class TestKeptActivation:
    """`cache_inference_quant_act`: what the last evaluation gave, by default without values."""

    def build(self, x, metadata_only=True):
        layer = qnn.QuantIdentity(act_quant=Uint8ActPerTensorFloat, return_quant_tensor=True)
        layer(x)
        layer.eval().act_quant.cache_inference_quant_act = True
        layer.act_quant.cache_quant_io_metadata_only = metadata_only
        return layer

    def test_nothing_is_kept_unasked(self, x):
        layer = qnn.QuantIdentity()
        layer(x)
        layer.eval()(x)
        assert layer.act_quant._cached_act is None

    def test_scale_without_values(self, x):
        layer = self.build(x)
        output = layer(x)
        kept = layer.act_quant._cached_act
        assert kept.quant_tensor.value is None and kept.shape == x.shape
        assert torch.equal(layer.act_quant.scale(), output.scale)
        assert kept.signed is False and kept.training is False

    def test_with_values(self, x):
        layer = self.build(x, metadata_only=False)
        output = layer(x)
        assert torch.equal(layer.act_quant._cached_act.quant_tensor.value, output.value)
        layer(2 * x)
        assert not torch.equal(layer.act_quant._cached_act.quant_tensor.value, output.value)

    def test_reading_keeps_nothing(self, x):
        layer = self.build(x)
        layer.act_quant.scale()
        assert layer.act_quant._cached_act is None

    @pytest.mark.parametrize(
        "change",
        [
            lambda layer: layer.train(),
            lambda layer: layer.load_state_dict(layer.state_dict()),
            lambda layer: layer.act_quant.init_tensor_quant(),
        ],
        ids=["train", "load", "initialise"],
    )
    def test_dropped_by(self, change, x):
        layer = self.build(x)
        layer(x)
        change(layer)
        assert layer.act_quant._cached_act is None

    def test_off_is_off(self, x):
        layer = self.build(x)
        layer(x)
        with torch.no_grad():
            scaling(layer.act_quant).finish_collection()
            scaling(layer.act_quant).value.mul_(2.0)
        before = layer.act_quant.scale().clone()
        layer.act_quant.cache_inference_quant_act = False
        torch.testing.assert_close(layer.act_quant.scale().detach(), 2 * before)


def test_base_creates_no_quant_tensor(x):
    base = Int8ActPerTensorFloat.let(proxy_class=ActQuantProxyFromInjectorBase)
    with pytest.raises(NotImplementedError, match="does not create quant tensors"):
        qnn.QuantIdentity(act_quant=base)(x)


def test_assigning_a_checkpoint_brings_constants_back_from_the_meta_device():
    source = qnn.QuantLinear(4, 3, input_quant=Int8ActPerTensorFloat)
    source(torch.randn(2, 4))
    with torch.device("meta"):
        layer = qnn.QuantLinear(4, 3, input_quant=Int8ActPerTensorFloat)
    layer.load_state_dict(source.state_dict(), assign=True)
    x = torch.randn(2, 4)
    assert torch.equal(layer.eval()(x), source.eval()(x))


class LargestOfEachRow(nn.Module):
    """A part of a user's own: one scale for each row of the input, found anew at each call."""

    def forward(self, x: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
        return x.detach().abs().amax(-1, keepdim=True).clamp_min(1e-10) / threshold


class DynamicPerRow(Int8ActPerTensorFloat):
    proxy_class = DynamicActQuantProxyFromInjector
    scaling_impl = LargestOfEachRow


@pytest.mark.parametrize("training", [True, False])
def test_dynamic_quantizer_of_rows(training):
    torch.manual_seed(0)
    layer = qnn.QuantIdentity(act_quant=DynamicPerRow, return_quant_tensor=True).train(training)
    linear = qnn.QuantLinear(6, 4, input_quant=DynamicPerRow, return_quant_tensor=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for factor in (1.0, 100.0):
        x = factor * torch.randn(2, 3, 6) * torch.tensor([[1.0], [10.0], [0.1]])
        y = layer(x)
        assert y.is_valid and y.scale.shape == (2, 3, 1)
        torch.testing.assert_close(y.scale, x.abs().amax(-1, keepdim=True) / 128)
        # 127 is the largest integer: a step off where 128 would be, and its rounding.
        assert float(((y.value - x).abs() / y.scale).max()) <= 1.0 + 128 * torch.finfo(x.dtype).eps
        assert torch.equal(compiled(x).value, y.value)
        # Each output sums products of one row: the accumulator has a scale for each row.
        output = linear.train(training)(x)
        assert output.is_valid and output.scale.shape == (2, 3, 1)
    torch._dynamo.reset()
