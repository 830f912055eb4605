"""What the batteries of layers do with a row: build the layer, train it, run it, compare it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from brevitas.quant_tensor import QuantTensor
from layer_rows import ROWS, Kind
from quant_tensors import make


def build(name: str, **keywords: Any) -> nn.Module:
    """The layer of a row, with all of its quantizers."""
    row = ROWS[name]
    build = row.builder or row.layer
    return build(*row.arguments, **{**row.options, **row.keywords, **keywords})


def build_as(name: str, **factory: Any) -> nn.Module:
    """The same with a dtype or on a device, by keywords or, where it takes none, converted."""
    if ROWS[name].takes_factory:
        return build(name, **factory)
    return build(name).to(**factory)


def build_plain(name: str, **factory: Any) -> nn.Module:
    """The layer of a row in floating point."""
    row = ROWS[name]
    if row.plain is None:
        layer = build_as(name, **factory)
        disabled(layer).__enter__()  # for good
        return layer
    build, options = row.builder or row.layer, {**row.options, **row.plain}
    if row.takes_factory:
        return build(*row.arguments, **options, **factory)
    return build(*row.arguments, **options).to(**factory)


def build_twin(name: str, **factory: Any) -> nn.Module:
    """The float layer of a row."""
    row = ROWS[name]
    return row.twin(*row.arguments, **row.options).to(**factory)


@contextmanager
def disabled(layer: nn.Module) -> Iterator[None]:
    """Inside, no quantizer of a layer quantizes, and nothing returns a quantized tensor."""
    flags = {"disable_quant": True, "return_quant_tensor": False}
    before = [
        (module, name, getattr(module, name))
        for module in layer.modules()
        for name in flags
        if hasattr(module, name)
    ]
    for module, name, _ in before:
        setattr(module, name, flags[name])
    yield
    for module, name, value in before:
        setattr(module, name, value)


def data(name: str, seed: int = 0, **factory: Any) -> Any:
    """An input for the layer of a row."""
    generator, row = torch.Generator().manual_seed(seed), ROWS[name]
    if row.kind is Kind.PLACES:
        x = torch.randint(0, row.arguments[0], row.shape, generator=generator)
        return x.to(factory.get("device"))
    if row.kind is Kind.INTEGERS:
        return make(row.shape, 0.25, bit_width=12, seed=seed)[0].to(**factory)
    return torch.randn(row.shape, generator=generator).to(**factory)


def leaf(x: Any) -> Any:
    """An input whose gradient is wanted, where it has one."""
    if isinstance(x, QuantTensor):
        return x.set(value=leaf(x.value))
    return x.detach().clone().requires_grad_(x.is_floating_point())


def enlarged(x: Any, factor: float) -> Any:
    """The input times a factor, where it has no range of its own."""
    is_real = not isinstance(x, QuantTensor) and x.is_floating_point()
    return x * factor if is_real else x


@cache
def _trained(name: str) -> nn.Module:
    torch.manual_seed(0)
    layer = build(name)
    run(name, layer, data(name, seed=1))
    return layer


def trained(name: str) -> nn.Module:
    """A layer that has learned values of its own; a copy, which is faster than to build one."""
    return copy.deepcopy(_trained(name))


def run(name: str, layer: Any, x: Any) -> list[Any]:
    """Call a layer or its twin, and list the tensors that it returns."""
    return list(tensors(ROWS[name].call(layer, x)))


def tensors(output: Any) -> Iterator[Any]:
    """The tensors, plain and quantized, of an output that may be nested."""
    if isinstance(output, (Tensor, QuantTensor)):
        yield output
    elif output is not None:
        for part in output:
            yield from tensors(part)


def numbers(name: str, layer: Any, x: Any) -> Tensor:
    """Everything that a layer returns as one row of numbers, with scales and the like.

    What it draws at random is the same each time.
    """
    torch.manual_seed(0)
    found: list[Tensor] = []
    for part in run(name, layer, x):
        if isinstance(part, QuantTensor):
            found += [part.value, part.scale, part.zero_point, part.bit_width]
        else:
            found.append(part)
    return torch.cat([tensor.flatten() for tensor in found])
