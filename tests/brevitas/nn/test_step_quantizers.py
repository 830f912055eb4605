"""Quantizers prepared for a sequence: as operations, side by side, and called."""

from __future__ import annotations

import pytest
import torch

import brevitas.nn as qnn
from brevitas.nn._step_quantizers import Apart, Linearized, SideBySide, prepared
from brevitas.ops.linearized import GridGradients
from brevitas.quant import ShiftedUint8ActPerTensorFloat

LAYERS = [qnn.QuantIdentity, qnn.QuantSigmoid, qnn.QuantTanh]


def prepare(proxy):
    return prepared({"name": proxy})["name"]


def proxy_of(layer):
    layer(torch.randn(50))
    return layer.eval().act_quant


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("quantized", [True, False])
def test_fixed_operation(layer, quantized):
    proxy = proxy_of(layer() if quantized else layer(act_quant=None))
    x = torch.randn(6)
    expected = proxy(x)
    step = prepare(proxy)
    assert step.is_fixed
    assert torch.equal(step(x), expected.value if quantized else expected)
    described = step.describe(step(x))
    if quantized:
        assert torch.equal(described.scale, expected.scale)
        assert described.is_valid and described.signed == expected.signed
    linear = Linearized(step.operation, GridGradients())
    assert torch.equal(linear(x), step(x))


def test_disabled_quantizer():
    proxy = proxy_of(qnn.QuantTanh())
    proxy.disable_quant = True
    x = torch.randn(6)
    assert torch.equal(prepare(proxy)(x), torch.tanh(x))


@pytest.mark.parametrize("change", ["hook", "training", "export", "cache", "function"])
def test_called_quantizer(change):
    proxy = proxy_of(qnn.QuantTanh())
    if change == "hook":
        proxy.register_forward_hook(lambda *_: None)
    elif change == "training":
        proxy.train()
    elif change == "export":
        proxy.export_handler = proxy.tensor_quant
        proxy.export_mode = True
    elif change == "cache":
        proxy.cache_inference_quant_act = True
    else:
        proxy.fused_activation_quant_proxy.activation_impl = torch.nn.Hardtanh()
    step = prepare(proxy)
    assert not step.is_fixed and step.operation is None
    assert step.describe_state(1) == 1


class TestSideBySide:
    def test_one_operation(self):
        proxies = [proxy_of(qnn.QuantSigmoid(bit_width=bits)) for bits in (8, 4, 3)]
        joint = SideBySide([prepare(proxy) for proxy in proxies])
        x = torch.randn(2, 3, 5)
        expected = [p(part).value for p, part in zip(proxies, x.unbind(1), strict=True)]
        assert joint.operation is not None
        assert torch.equal(joint(x), torch.stack(expected, dim=1))
        apart = Apart(joint.operation)
        apart = apart.with_tensors(iter(joint.operation.tensors()))
        for given in (x, x.unbind(1)):
            for ours, theirs in zip(apart(given), expected, strict=True):
                assert torch.equal(ours, theirs)

    def test_one_by_one(self):
        shifted = qnn.QuantIdentity(act_quant=ShiftedUint8ActPerTensorFloat)
        proxies = [proxy_of(qnn.QuantIdentity()), proxy_of(shifted)]
        several = SideBySide([prepare(proxy) for proxy in proxies])
        x = torch.randn(2, 2, 5)
        expected = [p(part).value for p, part in zip(proxies, x.unbind(1), strict=True)]
        assert several.operation is None
        assert torch.equal(several(x), torch.stack(expected, dim=1))

    def test_order_of_calls(self):
        proxy, calls = proxy_of(qnn.QuantIdentity()), []
        proxy.register_forward_hook(lambda module, args, output: calls.append(float(args[0][0, 0])))
        several = SideBySide([prepare(proxy)] * 3, calls=[0, 2, 1])
        several(torch.arange(3.0).reshape(1, 3, 1))
        assert calls == [0.0, 2.0, 1.0]

    def test_functions_that_differ(self):
        pair = [proxy_of(qnn.QuantSigmoid()), proxy_of(qnn.QuantTanh())]
        assert SideBySide([prepare(proxy) for proxy in pair]).operation is None
