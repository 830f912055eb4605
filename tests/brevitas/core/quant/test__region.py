"""Quantizers compiled under BREVITAS_JIT against the same quantizers run eagerly."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn

import brevitas.nn as qnn
from brevitas import config
from brevitas.core.function_wrapper import CeilSte
from brevitas.core.quant import _fused, _region
from brevitas.inject.enum import RestrictValueType, ScalingImplType
from brevitas.ops import region
from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerTensorFloat
from tensor_quants import ROWS, as_given, bias_scale, run

ROW = {str(row): row for row in ROWS}
# One quantizer for each kind of plan: statistic inside the region, per tensor and per channel;
# learned scale; learned scale and zero point; scale given from outside; a scale and a zero point
# per group; a scale per group that is computed before the region.
KINDS = [
    "Int8WeightPerTensorFloat",
    "Int8WeightPerChannelFloat",
    "Int8ActPerTensorFloat-learned",
    "ShiftedUint8ActPerTensorFloat-learned",
    "Int16Bias",
    "ShiftedUint8WeightGroupQuantFloat",
    "MXInt8Act",
]


def kernels():
    """How many kernels were compiled so far."""
    regions = (*_region._REGIONS.values(), *_fused._VALUE_REGIONS.values())
    return sum(each.kernels_compiled for each in regions)


def step(tensor_quant, row):
    """Outputs and gradients of one training step."""
    x, scale = row.data().requires_grad_(), bias_scale(torch.float32).requires_grad_()
    outputs = run(tensor_quant, x, scale)
    weight = torch.linspace(-1.0, 2.0, x.numel()).reshape(x.shape)
    (as_given(outputs[0], x) * weight).sum().backward()
    leaves = {"x": x, "scale": scale, **dict(tensor_quant.named_parameters())}
    return outputs, {name: p.grad for name, p in leaves.items() if p.grad is not None}


def assert_equal_to_eager(row, tensor_quant, compiled):
    """Values exactly, gradients up to the order of a sum of as many terms as there are elements."""
    expected, gradients = step(tensor_quant, row)
    with config.overrides(JIT_ENABLED=True):
        outputs, actual = step(compiled, row)
    for output, other in zip(outputs, expected, strict=True):
        assert torch.equal(output, other) and output.shape == other.shape
        assert output.requires_grad == other.requires_grad
    assert actual.keys() == gradients.keys()
    for name, gradient in gradients.items():
        largest = max(1.0, float(gradient.abs().max()))
        unit = torch.finfo(torch.float32).eps * row.data().numel() * 2**7
        torch.testing.assert_close(actual[name], gradient, rtol=0.0, atol=unit * largest)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_plan_compiles_and_equals_eager(kind, monkeypatch):
    calls, original = [], region._run_forward

    def counted(*arguments):
        calls.append(kind)
        return original(*arguments)

    monkeypatch.setattr(region, "_run_forward", counted)
    assert_equal_to_eager(ROW[kind], ROW[kind].build(), ROW[kind].build())
    assert calls == [kind]


@pytest.mark.long
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_every_quantizer_compiles_and_equals_eager(row):
    assert_equal_to_eager(row, row.build(), row.build())


@pytest.mark.long
def test_forty_quantizers_of_different_shapes_share_kernels():
    torch.manual_seed(0)
    widths = range(2, 22)
    layers = [qnn.QuantLinear(w, 23 - w, weight_bit_width=2 + w % 7) for w in widths]
    layers += [
        qnn.QuantConv2d(w, 23 - w, 1 + w % 3, weight_scaling_per_output_channel=True)
        for w in widths
    ]
    with config.overrides(JIT_ENABLED=True):
        before = kernels()
        for layer in layers:
            layer.quant_weight().value.sum().backward()
        compiled = kernels() - before
    # Forward and backward, per tensor and per channel, each below and above one chunk of a sum.
    assert compiled <= 8
    for layer in layers:
        gradient = layer.weight.grad.clone()
        layer.weight.grad = None
        layer.quant_weight().value.sum().backward()
        torch.testing.assert_close(gradient, layer.weight.grad)


class Doubled(nn.Module):
    """A user's scaling."""

    def forward(self, x, threshold):
        return 2 * x.detach().abs().max() / threshold


def _own_scaling(tensor_quant):
    tensor_quant.scaling_impl = Doubled()


def _other_restriction(tensor_quant):
    tensor_quant.scaling_impl.restriction.restrict_scale_threshold_impl = CeilSte()


def _hooked_restriction(tensor_quant):
    restriction = tensor_quant.scaling_impl.restriction.restrict_value_impl
    restriction.register_forward_hook(lambda module, arguments, output: 3 * output)


def _hooked_rounding(tensor_quant):
    rounding = tensor_quant.int_quant.float_to_int_impl
    rounding.register_forward_hook(lambda module, arguments, output: output + 1)


def _unsigned(tensor_quant):
    tensor_quant.int_quant.signed = False


CHANGES = [_own_scaling, _other_restriction, _hooked_restriction, _hooked_rounding, _unsigned]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", [KINDS[0], KINDS[2]])
def test_changed_parts_take_effect_at_once(kind, change):
    row = ROW[kind]
    expected, compiled, x = row.build().eval(), row.build().eval(), row.data()
    with torch.no_grad(), config.overrides(JIT_ENABLED=True):
        before = run(compiled, x)[0]
        change(compiled)
        actual = run(compiled, x)
        change(expected)
        with config.overrides(JIT_ENABLED=False):
            others = run(expected, x)
    assert not torch.equal(actual[0], before)
    assert all(torch.equal(a, o) for a, o in zip(actual, others, strict=True))


def test_a_part_of_a_canonical_program_is_a_copy():
    """A hook on the quantizer that a region was compiled for does not reach the others."""
    row = ROW[KINDS[0]]
    first, second, x = row.build(), row.build(), row.data()
    with torch.no_grad(), config.overrides(JIT_ENABLED=True):
        expected = run(second, x)[0]
        run(first, x)
        _hooked_restriction(first)
        assert torch.equal(run(second, x)[0], expected)


def test_collection_ends_in_compiled_training_as_in_eager():
    def train(jit):
        torch.manual_seed(0)
        layer = qnn.QuantReLU(collect_stats_steps=2, return_quant_tensor=True)
        with config.overrides(JIT_ENABLED=jit):
            scales = [layer(torch.randn(4, 5) * step).scale.detach() for step in range(1, 5)]
            return [*scales, layer.eval()(torch.ones(2, 3)).scale.detach()]

    assert torch.equal(torch.stack(train(True)), torch.stack(train(False)))


def test_shared_weights_are_read_where_they_are():
    with config.overrides(JIT_ENABLED=True):
        first = qnn.QuantLinear(5, 3, weight_quant=Int8WeightPerTensorFloat)
        second = qnn.QuantLinear(7, 2, weight_quant=first.weight_quant)
        largest = max(float(layer.weight.detach().abs().max()) for layer in (first, second))
        for layer in (first, second):
            torch.testing.assert_close(float(layer.quant_weight().scale.detach()), largest / 127)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_run_compiled(copied):
    layer = qnn.QuantLinear(5, 3)
    with config.overrides(JIT_ENABLED=True):
        expected = layer.quant_weight()
        other = copied(layer)
        assert torch.equal(other.quant_weight().value, expected.value)
        with torch.no_grad():
            other.weight.mul_(2)
        assert torch.equal(other.quant_weight().scale, 2 * expected.scale)
        assert torch.equal(layer.quant_weight().value, expected.value)


@pytest.mark.parametrize("shape", [(0, 5), (1,)])
def test_tiny_tensors_run_without_a_kernel(shape):
    layer = qnn.QuantIdentity(Int8ActPerTensorFloat, collect_stats_steps=1)
    layer(torch.ones(4, 5))
    expected, before = layer(torch.ones(shape)), kernels()
    with config.overrides(JIT_ENABLED=True):
        assert torch.equal(layer(torch.ones(shape)), expected)
    assert kernels() == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(dtype):
    layer = qnn.QuantLinear(5, 3, dtype=dtype)
    expected = layer.quant_weight()
    with config.overrides(JIT_ENABLED=True):
        actual = layer.quant_weight()
    assert actual.value.dtype is dtype
    assert torch.equal(actual.value, expected.value) and torch.equal(actual.scale, expected.scale)


def test_a_layer_that_ran_compiled_can_be_freed():
    layer = qnn.QuantLinear(5, 3)
    with config.overrides(JIT_ENABLED=True):
        layer(torch.ones(2, 5))
    reference = weakref.ref(layer)
    del layer
    gc.collect()
    assert reference() is None


class OneOfEach(nn.Module):
    """A user's bit width, another one for each row."""

    def forward(self):
        return torch.tensor([[2.0], [4.0], [8.0]])


@pytest.mark.parametrize("kind", [KINDS[2], KINDS[4]])
def test_a_bit_width_of_any_shape(kind):
    row = ROW[kind]
    x = torch.randn(3, 4)
    results = []
    for compiled in (False, True):
        tensor_quant = row.build().eval()
        tensor_quant.msb_clamp_bit_width_impl = OneOfEach()
        with torch.no_grad(), config.overrides(JIT_ENABLED=compiled):
            results.append(run(tensor_quant, x, torch.tensor(0.1)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_constant_scale_needs_no_gradient():
    layer = qnn.QuantIdentity(scaling_impl_type="const", scaling_init=1.0, return_quant_tensor=True)
    with config.overrides(JIT_ENABLED=True):
        y = layer(torch.randn(8, requires_grad=True))
    assert y.value.requires_grad and not y.scale.requires_grad


@pytest.mark.parametrize("restriction", [RestrictValueType.LOG_FP, RestrictValueType.POWER_OF_TWO])
def test_scales_that_are_powers_are_those_of_eager_execution(restriction):
    layer = qnn.QuantLinear(
        6,
        33,
        weight_scaling_impl_type=ScalingImplType.PARAMETER_FROM_STATS,
        weight_restrict_scaling_type=restriction,
        weight_scaling_per_output_channel=True,
    )
    layer.quant_weight()
    with torch.no_grad():
        layer.weight_quant.tensor_quant.scaling_impl.value.mul_(1.013)
    expected = layer.quant_weight()
    with config.overrides(JIT_ENABLED=True):
        actual = layer.quant_weight()
    assert torch.equal(actual.scale, expected.scale)
    assert torch.equal(actual.value, expected.value)


def test_whole_model_compilation_sees_through():
    layer = qnn.QuantReLU(collect_stats_steps=1)
    layer(torch.rand(4, 5))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with config.overrides(JIT_ENABLED=True):
        x = torch.randn(4, 5)
        assert torch.equal(compiled(x), layer(x))
