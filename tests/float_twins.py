"""A layer that quantizes nothing, against the layer of PyTorch that it stands for."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from layer_rows import Call, on_one
from layers import leaf, tensors


def outputs_and_gradient(module: nn.Module, x: Tensor, call: Call = on_one) -> list[Tensor]:
    """The outputs of a layer and the gradient of its input; its parameters keep theirs."""
    x = leaf(x)
    module.zero_grad()
    torch.manual_seed(0)
    outputs = list(tensors(call(module, x)))
    # Of another weight each, so that no gradients cancel.
    losses: list[Any] = [place * y.square().sum() for place, y in enumerate(outputs, 1)]
    sum(losses).backward()
    return [y.detach() for y in outputs] + ([] if x.grad is None else [x.grad])


def assert_computes_the_same(
    layer: nn.Module, twin: nn.Module, x: Tensor, call: Call = on_one
) -> None:
    """Assert equal outputs, and equal gradients of the input and of every parameter."""
    results = [outputs_and_gradient(module, x, call) for module in (layer, twin)]
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)
    # What a disabled quantizer holds is not in the twin.
    found = {n: _gradient(p) for n, p in layer.named_parameters() if "_quant." not in n}
    expected = {name: _gradient(parameter) for name, parameter in twin.named_parameters()}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def assert_computes_nearly_the_same(
    layer: nn.Module, twin: nn.Module, x: Tensor, call: Call = on_one
) -> None:
    """The same up to rounding, for a layer that names its parameters in another way.

    Loading the gradients of the twin, as the checkpoint that they look like, has to give those of
    the layer.
    """
    results = [outputs_and_gradient(module, x, call) for module in (layer, twin)]
    torch.testing.assert_close(*results)
    found = [_gradient(parameter) for parameter in layer.parameters()]
    gradients = {name: _gradient(p) for name, p in twin.named_parameters()}
    biases = [n for n in gradients if n.startswith("bias_ih") or n.startswith("bias_hh")]
    for name in biases:  # a recurrent layer has the sum of two biases, of one gradient
        gradients[name] = gradients[name] / 2
    holder = copy.deepcopy(layer)
    holder.load_state_dict(gradients, strict=False)
    torch.testing.assert_close(found, [p.detach() for p in holder.parameters()])


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
