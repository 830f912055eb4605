"""What all proxies share: disabling, sharing, export mode, checkpoints."""

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
from brevitas.proxy.quant_proxy import QuantProxyFromInjector, QuantProxyProtocol
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8BiasPerTensorFloatInternalScaling,
    Int8WeightPerTensorFloat,
)
from brevitas.quant_tensor import IntQuantTensor

ROLES = ["weight_quant", "bias_quant", "input_quant", "output_quant"]


def layer(**keywords):
    torch.manual_seed(0)
    quantizers = {
        "bias_quant": Int8BiasPerTensorFloatInternalScaling,
        "input_quant": Int8ActPerTensorFloat,
        "output_quant": Int8ActPerTensorFloat,
    }
    return qnn.QuantLinear(4, 6, **{**quantizers, **keywords})


def tensor_of(module, role):
    return {"weight_quant": module.weight, "bias_quant": module.bias}.get(role, torch.ones(2, 4))


@pytest.mark.parametrize("role", ROLES)
def test_disable_at_any_time(role):
    module = layer()
    proxy, x = getattr(module, role), tensor_of(module, role)
    for mode in (True, False):
        proxy.train(mode)
        assert isinstance(proxy(x), IntQuantTensor)
        proxy.disable_quant = True
        assert not proxy.is_quant_enabled and not proxy.requires_export_handler
        assert proxy(x) is x or torch.equal(proxy(x), x)
        assert type(proxy(x)) is not IntQuantTensor
        assert proxy.scale() is None and proxy.zero_point() is None and proxy.bit_width() is None
        proxy.disable_quant = False
        assert proxy.is_quant_enabled and proxy.requires_export_handler
        assert isinstance(proxy(x), IntQuantTensor)


def test_disabling_keeps_learned_values():
    module = layer(input_collect_stats_steps=1)
    module(torch.ones(2, 4))
    state = {key: value.clone() for key, value in module.state_dict().items()}
    module.input_quant.disable_quant = True
    assert module.state_dict().keys() == state.keys()
    module.input_quant.disable_quant = False
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("role", ["weight_quant", "input_quant"])
def test_runs_compiled_when_asked_to_and_its_parts_allow(role):
    proxy = getattr(layer(), role)
    with config.overrides(JIT_ENABLED=True):
        assert proxy.is_proxy_compiled is True
        int_quant = proxy._tensor_quant_impl().int_quant
        int_quant.float_to_int_impl.register_forward_hook(lambda *arguments: None)
        assert proxy.is_proxy_compiled is False


@pytest.mark.parametrize("role", ROLES)
def test_descriptions(role):
    proxy = getattr(layer(), role)
    assert proxy.is_signed is True
    assert proxy.is_narrow_range is (role == "weight_quant")
    assert proxy.rounding_mode == "ROUND"
    assert proxy.is_groupwise is False and proxy.is_proxy_compiled is False
    assert proxy.tracked_module_list == [proxy.tracked_module_list[0]]
    assert isinstance(proxy, QuantProxyProtocol)


def test_descriptions_of_a_proxy_that_quantizes_nothing():
    proxy = qnn.QuantLinear(4, 6).input_quant
    assert proxy.is_signed is None
    assert proxy.is_narrow_range is None
    assert proxy.rounding_mode is None
    assert not proxy.is_quant_enabled and not proxy.requires_export_handler


@pytest.mark.parametrize("kind", ["floor", "ceil", "round_to_zero", "dpu"])
def test_rounding_mode(kind):
    module = qnn.QuantLinear(4, 6, weight_float_to_int_impl_type=kind)
    assert module.weight_quant.rounding_mode == kind.upper()


@pytest.mark.parametrize("role", ROLES)
def test_export_mode_calls_the_handler(role):
    module = layer()
    module(torch.ones(2, 4))
    proxy, x = getattr(module, role), tensor_of(module, role)
    calls = []

    def handler(value, *more):
        calls.append(value)
        one = torch.ones(())
        return value + 1, one, 0 * one, 8 * one

    with pytest.raises(RuntimeError, match="during training"):
        proxy.export_mode = True
    proxy.eval()
    proxy.export_handler = handler
    proxy.export_mode = True
    output = proxy(x)
    assert torch.equal(output.value, x + 1) and output.scale == 1
    proxy.export_mode = False
    assert not torch.equal(proxy(x).value, x + 1)
    assert len(calls) == 1


@pytest.mark.parametrize("role", ["weight_quant", "input_quant", "output_quant"])
def test_skip_create_quant_tensor(role):
    module = layer()
    proxy, x = getattr(module, role), tensor_of(module, role)
    expected = proxy(x).value
    proxy.skip_create_quant_tensor = True
    assert type(proxy(x)) is torch.Tensor
    assert torch.equal(proxy(x), expected)


@pytest.mark.parametrize("role", ROLES)
def test_layers_are_no_children(role):
    module = layer()
    proxy = getattr(module, role)
    assert module not in list(proxy.modules())
    reference = weakref.ref(module)
    del module, proxy
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_belong_to_the_copied_layers(copier):
    first = layer()
    second = layer(weight_quant=first.weight_quant, output_quant=first.output_quant)
    first_copy, second_copy = copier(nn.ModuleList([first, second]))
    assert first_copy.weight_quant is second_copy.weight_quant
    assert first_copy.output_quant is second_copy.output_quant
    assert first_copy.weight_quant is not first.weight_quant
    for proxy in (first_copy.weight_quant, first_copy.output_quant):
        assert proxy.tracked_module_list == [first_copy, second_copy]
    with torch.no_grad():
        second_copy.weight.mul_(10.0)
    assert first_copy.weight_quant.scale() > first.weight_quant.scale()


def test_tracking_needs_a_module():
    with pytest.raises(TypeError, match=r"add_tracked_module\('linear'\): expected a torch.nn"):
        layer().weight_quant.add_tracked_module("linear")


def test_base_class_builds_nothing():
    with pytest.raises(NotImplementedError, match="does not build a tensor quantizer"):
        QuantProxyFromInjector(nn.Identity(), Int8WeightPerTensorFloat)


@pytest.mark.parametrize("role", ["weight_quant", "output_quant"])
def test_sharing_in_evaluation_stays_in_evaluation(role):
    first = layer().eval()
    layer(**{role: getattr(first, role)})
    assert all(not module.training for module in getattr(first, role).modules())


def test_view_is_the_identity():
    x = torch.ones(2)
    assert layer().weight_quant.apply_input_view(x) is x
