"""A layer that quantizes nothing, against the layer of PyTorch that it derives from."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def assert_computes_the_same(layer: nn.Module, twin: nn.Module, x: Tensor) -> None:
    """Assert equal outputs, and equal gradients of the input and of every parameter."""
    inputs = [x.detach().clone().requires_grad_(x.is_floating_point()) for _ in range(2)]
    outputs = [module(x) for module, x in zip((layer, twin), inputs, strict=True)]
    assert torch.equal(*outputs)
    for output in outputs:
        output.square().sum().backward()
    if x.is_floating_point():
        assert torch.equal(inputs[0].grad, inputs[1].grad)
    for ours, theirs in zip(layer.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
