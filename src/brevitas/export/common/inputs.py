"""The example inputs of an export, and the plain tensors that a file takes in place of them.

Layer: export (L8).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from brevitas.export.common.spec import ExportError
from brevitas.quant_tensor import QuantTensor

__all__ = ["expect_module", "plain_signature", "plain_values", "solve_inputs"]


def expect_module(module: object) -> None:
    """Raise TypeError where something else than a module is given for a model.

    Example:
        >>> expect_module(nn.ReLU)
        Traceback (most recent call last):
        TypeError: module: expected a torch.nn.Module, got the class ReLU; make an instance of it.
    """
    if isinstance(module, nn.Module):
        return
    if isinstance(module, type):
        got = f"the class {module.__name__}; make an instance of it"
    else:
        got = f"{type(module).__name__}; the model comes first, its example input second"
    raise TypeError(f"module: expected a torch.nn.Module, got {got}.")


def solve_inputs(
    module: nn.Module,
    args: Tensor | QuantTensor | tuple[Any, ...] | None,
    input_shape: tuple[int, ...] | None,
    input_t: Tensor | QuantTensor | None,
) -> tuple[Any, ...]:
    """Gather the example inputs from the ways there are to give them.

    Args:
        module: the model, whose device and dtype a random input takes.
        args: one input or a tuple of inputs.
        input_shape: shape of a random input.
        input_t: one input.

    Returns:
        Tuple of inputs.

    Raises:
        ExportError: where none or more than one of the three is given.
        TypeError: where ``module`` is none, or ``args`` is a shape or no tensor.
    """
    expect_module(module)
    ways = {"args": args, "input_shape": input_shape, "input_t": input_t}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) != 1:
        raise ExportError(
            f"{' and '.join(given) or 'no input'} given: expected exactly one of {', '.join(ways)}"
        )
    if input_shape is not None:
        parameter = next(module.parameters(), torch.empty(0))
        dtype = parameter.dtype if parameter.is_floating_point() else torch.float32
        return (torch.randn(input_shape, device=parameter.device, dtype=dtype),)
    inputs = args if args is not None else input_t
    if isinstance(inputs, (Tensor, QuantTensor, Mapping)):
        return (inputs,)
    if not isinstance(inputs, (tuple, list)):
        kind = type(inputs).__name__
        raise TypeError(f"{given[0]}: expected a tensor or a tuple of inputs, got {kind}.")
    if inputs and all(type(item) is int for item in inputs):
        shape = tuple(inputs)
        raise TypeError(f"{given[0]}={shape}: expected inputs; pass input_shape={shape}.")
    return tuple(inputs)


def plain_values(tree: Any) -> Any:
    """Replace every QuantTensor in nested tuples, lists and dicts by its value.

    Example:
        >>> from brevitas.quant_tensor import IntQuantTensor
        >>> q = IntQuantTensor(torch.ones(1), 1.0, 0.0, 8.0, True, False)
        >>> plain_values([q, {"a": (q, 2)}])
        [tensor([1.]), {'a': (tensor([1.]), 2)}]
    """
    if isinstance(tree, QuantTensor):
        return tree.value
    if type(tree) in (tuple, list):
        return type(tree)(plain_values(item) for item in tree)
    if type(tree) is dict:
        return {name: plain_values(item) for name, item in tree.items()}
    return tree


@contextmanager
def plain_signature(module: nn.Module, args: tuple[Any, ...]) -> Iterator[None]:
    """Let a model take and return plain values where it takes and returns QuantTensors.

    Scale, zero point and bit width of an input are constants of the graph; those of an output
    are not part of it.

    Args:
        module: the model, which is called with the plain values of ``args`` meanwhile.
        args: example inputs.
    """

    def rebuild(_: nn.Module, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(
            item._around(value) if isinstance(item, QuantTensor) else value
            for item, value in zip(args, values, strict=True)
        )

    handles = [
        module.register_forward_pre_hook(rebuild),
        module.register_forward_hook(lambda _module, _args, output: plain_values(output)),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
