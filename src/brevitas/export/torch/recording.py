"""Run a traced model so that TorchScript records it, sizes of its inputs included.

Layer: export (L8).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from brevitas.export.torch.sizes import Limits, expect_sizes

__all__ = ["RECORDING", "SIZES", "Recording", "Runner", "filled", "sliced"]

aten = torch.ops.aten


def sliced(x: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Tensor:
    """Slice as Python does, which TorchScript records with sizes that depend on an input.

    Example:
        >>> sliced(torch.arange(6), 0, 1, 4, 2)
        tensor([1, 3])
    """
    index = [slice(None)] * (dim % x.dim()) + [slice(start, end, step)]
    return x[tuple(index)]


def filled(x: Tensor, value: Any) -> Tensor:
    """Make a tensor like another one out of one value, which TorchScript has no operator for.

    Example:
        >>> filled(torch.zeros(2), torch.tensor(3.0))
        tensor([3., 3.])
    """
    return x.clone().fill_(value)


# Sizes that depend on the input, and the arithmetic on them.
SIZES: dict[Any, Callable[..., Any]] = {
    aten.sym_size.int: torch.Tensor.size,
    **{
        function: function
        for function in (
            operator.add,
            operator.floordiv,
            operator.mod,
            operator.mul,
            operator.neg,
            operator.sub,
            operator.truediv,
        )
    },
}

# TorchScript records the sizes that these read, as methods and functions of Python: it has sizes as
# tensors meanwhile, which operators called by name take for constants.
RECORDING: dict[Any, Callable[..., Any]] = {
    aten.arange.default: torch.arange,
    aten.arange.start: torch.arange,
    aten.arange.start_step: torch.arange,
    aten.fill.Scalar: filled,
    aten.fill.Tensor: filled,
    aten.full.default: torch.full,
    aten.new_ones.default: torch.Tensor.new_ones,
    aten.new_zeros.default: torch.Tensor.new_zeros,
    aten.ones.default: torch.ones,
    aten.zero.default: torch.zeros_like,
    aten.zeros.default: torch.zeros,
    aten.expand.default: torch.Tensor.expand,
    aten.repeat.default: torch.Tensor.repeat,
    aten.reshape.default: torch.reshape,
    aten.slice.Tensor: sliced,
    aten._unsafe_view.default: torch.reshape,
    aten.view.default: torch.reshape,
    aten.add.Tensor: torch.add,
    aten.div.Tensor: torch.div,
    aten.mul.Tensor: torch.mul,
    aten.sub.Tensor: torch.sub,
}


class Recording(fx.Interpreter):
    """Runs a traced model operator by operator, each so that TorchScript records what it reads.

    Args:
        module: what ``torch.export`` made of the model.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.extra_traceback = False
        self._attributes: dict[Any, Any] = {}
        # By identity; kept alive, so that no other value gets the same one.
        self._sizes: dict[int, Tensor] = {}
        self._constants: dict[int, Any] = {}

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return a constant outside of autograd, the same one in every run."""
        if target not in self._attributes:
            value = super().get_attr(target, args, kwargs)
            value = value.detach() if isinstance(value, Tensor) else value
            self._attributes[target] = value
            self._constants[id(value)] = value
        return self._attributes[target]

    def output(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return the results; of a constant a copy, which TorchScript takes for one."""

        def result(leaf: Any) -> Any:
            return leaf.clone() if id(leaf) in self._constants else leaf

        return super().output(target, tree_map(result, args), kwargs)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Run an operator."""
        if target is operator.getitem:
            return args[0][args[1]]
        if target in SIZES:
            return self._size(target, args)
        return self._record(target, args, kwargs)

    def _record(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Run an operator on real values."""
        if target in RECORDING:
            return RECORDING[target](*args, **kwargs)
        return target(*self._fixed(args), **self._fixed(kwargs))

    def _size(self, target: Any, args: Any) -> Any:
        """Compute a size, which is a tensor while TorchScript records."""
        value = SIZES[target](*args)
        if isinstance(value, Tensor):
            self._sizes[id(value)] = value
        return value

    def _fixed(self, tree: Any) -> Any:
        """Replace sizes by numbers, for operators that record no size."""
        if isinstance(tree, (tuple, list)):
            return type(tree)(self._fixed(item) for item in tree)
        if isinstance(tree, dict):
            return {name: self._fixed(item) for name, item in tree.items()}
        return tree.item() if id(tree) in self._sizes else tree


class Runner(nn.Module):
    """A traced model as a module: checks the sizes of its inputs, and runs the graph.

    Args:
        execution: runs the graph.
        limits: sizes that each input may have, None for one that is no tensor.
        layers: modules that the graph runs.
    """

    def __init__(
        self, execution: Recording, limits: Any, layers: nn.ModuleDict | None = None
    ) -> None:
        super().__init__()
        self.layers = layers if layers is not None else nn.ModuleDict()
        # In tuples: float parameters and a compiled function are no part of the file.
        self._execution = (execution,)
        self._expect_sizes = (torch.jit.script(expect_sizes),)
        self.limits: list[Limits | None] = list(limits)

    def forward(self, *args: Any) -> Any:
        """Check the inputs, and run the graph."""
        leaves, structure = tree_flatten(args)
        for index, limits in enumerate(self.limits):
            if limits is not None:
                expected = f"input {index} of sizes {limits.text}"
                bounds = (list(limits.low), list(limits.high), expected)
                leaves[index] = self._expect_sizes[0](leaves[index], *bounds)
        return self._execution[0].run(*tree_unflatten(leaves, structure))
