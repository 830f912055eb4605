"""Parts that belong to several quantizers: one learned bit width for a layer and an activation.

However a part came to be shared, it is one module: its gradient is the sum over its users, it is
one parameter, copies share it again, and what hangs on it changes for all users at once.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import brevitas.nn as qnn
from brevitas.core.bit_width import BitWidthParameter
from brevitas.inject import value
from brevitas.loss import ActivationBitWidthWeightedBySize, WeightBitWidthWeightedBySize
from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerTensorFloat

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


class Weight(Int8WeightPerTensorFloat):
    bit_width_impl_type = "parameter"
    bit_width = 6


class Act(Int8ActPerTensorFloat):
    bit_width_impl_type = "parameter"
    bit_width = 4
    collect_stats_steps = 1


class Model(nn.Module):
    """An activation and the layer behind it."""

    def __init__(self, act: type, weight: type = Weight, **keywords: Any) -> None:
        super().__init__()
        self.act = qnn.QuantIdentity(act_quant=act, return_quant_tensor=True, **keywords)
        self.layer = qnn.QuantLinear(
            4, 3, bias=False, weight_quant=weight, return_quant_tensor=True
        )

    def forward(self, x: Tensor) -> Any:
        return self.layer(self.act(x))


def weight_bits(model: Model) -> Any:
    return model.layer.weight_quant.tensor_quant.msb_clamp_bit_width_impl


def act_bits(model: Model) -> Any:
    return model.act.act_quant.fused_activation_quant_proxy.tensor_quant.msb_clamp_bit_width_impl


def by_assignment() -> Model:
    model = Model(Act)
    tensor_quant = model.act.act_quant.fused_activation_quant_proxy.tensor_quant
    tensor_quant.msb_clamp_bit_width_impl = weight_bits(model)
    return model


def by_keyword() -> Model:
    layer = qnn.QuantLinear(4, 3, bias=False, weight_quant=Weight, return_quant_tensor=True)
    part = layer.weight_quant.tensor_quant.msb_clamp_bit_width_impl
    model = Model(Act, bit_width_impl=part)
    model.layer = layer
    return model


def by_declaration() -> Model:
    """Both declare one module; nothing of it is in the classes that they derive from."""
    part = BitWidthParameter(6)
    return Model(Act.let(bit_width_impl=part), Weight.let(bit_width_impl=part))


WAYS = [by_assignment, by_keyword, by_declaration]
every_way = pytest.mark.parametrize("build", WAYS)


def grads(loss: Tensor, part: BitWidthParameter) -> float:
    (gradient,) = torch.autograd.grad(loss, part.bit_width_offset, retain_graph=True)
    return gradient.item()


@every_way
def test_it_is_one_module_and_one_parameter(build: Callable[[], Model]) -> None:
    model = build()
    assert weight_bits(model) is act_bits(model)
    offsets = [n for n, _ in model.named_parameters() if n.endswith("bit_width_offset")]
    assert len(offsets) == 1
    # Both names are keys of a checkpoint, as of any module that two others hold.
    assert sum(key.endswith("bit_width_offset") for key in model.state_dict()) == 2


@every_way
def test_a_change_reaches_every_user(build: Callable[[], Model], fused_calls: list[str]) -> None:
    model = build()
    model(X)
    assert len(fused_calls) == 2
    for bits in (6, 3, 5):
        with torch.no_grad():
            weight_bits(model).bit_width_offset.fill_(bits - 2.0)
        x = model.act(X)
        assert x.bit_width == bits and model.layer.quant_weight().bit_width == bits
        assert x.is_valid and model.layer.quant_weight().is_valid
        assert x.int().abs().max() <= 2 ** (bits - 1)


@every_way
def test_the_gradient_is_the_sum_over_its_users(build: Callable[[], Model]) -> None:
    model = build()
    part = weight_bits(model)
    y = model(X)
    x, weight = model.act(X), model.layer.quant_weight()
    assert grads(x.bit_width, part) == grads(weight.bit_width, part) == 1.0
    assert grads(x.bit_width + 2 * weight.bit_width, part) == 3.0
    # The accumulator has as many bits as both factors together.
    bits = torch.tensor(6.0, requires_grad=True)
    torch.log2((2**bits - 1) ** 2 * 4 + 1).backward()
    assert grads(y.bit_width, part) == pytest.approx(bits.grad.item(), rel=1e-6)
    total = grads(x.value.sum() + weight.value.sum(), part)
    alone = grads(x.value.sum(), part) + grads(weight.value.sum(), part)
    assert total == pytest.approx(alone, rel=1e-5, abs=1e-6)


@every_way
def test_every_user_has_its_loss(build: Callable[[], Model]) -> None:
    model = build()
    losses = [WeightBitWidthWeightedBySize(model), ActivationBitWidthWeightedBySize(model)]
    model(X)
    assert [loss.retrieve().item() for loss in losses] == [6.0, 6.0]
    (losses[0].retrieve() + 3 * losses[1].retrieve()).backward()
    assert weight_bits(model).bit_width_offset.grad.item() == 4.0


@every_way
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_share_it_again(build: Callable[[], Model], copied: Any) -> None:
    model = build()
    model(X)
    other = copied(model)
    assert weight_bits(other) is act_bits(other) is not weight_bits(model)
    with torch.no_grad():
        weight_bits(other).bit_width_offset.fill_(1.0)
    assert other.act(X).bit_width == 3 and model.act(X).bit_width == 6


@every_way
def test_a_checkpoint_brings_it_back(build: Callable[[], Model]) -> None:
    model, other, stream = build(), build(), io.BytesIO()
    with torch.no_grad():
        weight_bits(model).bit_width_offset.fill_(1.0)
    model(X)
    torch.save(model.state_dict(), stream)
    stream.seek(0)
    other.load_state_dict(torch.load(stream, weights_only=True))
    assert weight_bits(other) is act_bits(other)
    assert torch.equal(other.eval()(X).value, model.eval()(X).value)


@every_way
def test_a_hook_on_it_is_called_by_every_user(build: Callable[[], Model]) -> None:
    model, calls = build(), []
    weight_bits(model).register_forward_hook(lambda *_: calls.append("bits"))
    model(X)
    assert calls == ["bits", "bits"]


@every_way
def test_a_step_of_training_moves_it_once(build: Callable[[], Model]) -> None:
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(X).bit_width.backward()
    before, gradient = (
        weight_bits(model).bit_width_offset.item(),
        weight_bits(model).bit_width_offset.grad.item(),
    )
    optimizer.step()
    after = weight_bits(model).bit_width_offset.item()
    assert after == pytest.approx(before - 0.5 * gradient)
    x = model.act(X)
    assert x.bit_width == model.layer.quant_weight().bit_width == round(after + 2)


class OfTheInput(Weight):
    """A weight that takes the bits of its layer's input."""

    @value
    def bit_width_impl(module: Any) -> Any:
        fused = module.input_quant.fused_activation_quant_proxy
        return fused.tensor_quant.msb_clamp_bit_width_impl


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_layer_shares_bits_between_its_own_tensors(copied: Any) -> None:
    layer = qnn.QuantLinear(4, 3, weight_quant=OfTheInput, input_quant=Act)
    layer(X)
    (key,) = (n for n, _ in layer.named_parameters() if n.endswith("bit_width_offset"))
    other = copied(layer)
    with torch.no_grad():
        layer.get_parameter(key).fill_(1.0)
    assert layer.input_quant.bit_width() == layer.weight_quant.bit_width() == 3
    assert other.input_quant.bit_width() == other.weight_quant.bit_width() == 4


def test_quantizers_of_the_same_class_share_nothing_by_themselves() -> None:
    first, second = Model(Act), Model(Act)
    parts = [weight_bits(first), act_bits(first), weight_bits(second), act_bits(second)]
    assert len({id(part) for part in parts}) == 4
    # A declaration with one module of its own is what every quantizer made of it shares.
    declared = Act.let(bit_width_impl=BitWidthParameter(5))
    assert act_bits(Model(declared)) is act_bits(Model(declared))


def test_other_parts_are_shared_alike() -> None:
    """A scale: two activations on one grid, of which either learns for both."""
    first, second = (qnn.QuantIdentity(act_quant=Act, return_quant_tensor=True) for _ in range(2))
    proxies = [layer.act_quant.fused_activation_quant_proxy for layer in (first, second)]
    proxies[1].tensor_quant.scaling_impl = proxies[0].tensor_quant.scaling_impl
    assert first(X).scale == second(2 * X).scale
    (first(X).value.sum() + second(X).value.sum()).backward()
    scale = proxies[0].tensor_quant.scaling_impl.value
    total = scale.grad.clone()
    scale.grad = None
    first(X).value.sum().backward()
    torch.testing.assert_close(total, 2 * scale.grad)
