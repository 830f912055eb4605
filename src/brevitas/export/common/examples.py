"""The example inputs run through a model with real values before it is traced.

Layer: export (L8).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from brevitas.export.common.failures import keeps_state
from brevitas.export.common.inputs import plain_values

__all__ = ["copied", "run_example"]


def copied(tree: Any) -> Any:
    """Copy every tensor in nested inputs.

    A model may change its inputs in place, and a tracer that fails leaves marks on them: neither
    is to reach what the caller holds.

    Args:
        tree: tensors, QuantTensors and anything else, nested in tuples, lists and dicts.

    Returns:
        The same structure with copies of the tensors, outside of autograd.

    Example:
        >>> x = torch.ones(2)
        >>> inputs = copied((x, {"scale": 2.0}))
        >>> torch.equal(inputs[0], x), inputs[0] is x
        (True, False)
    """
    return tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, tree)


def run_example(
    module: nn.Module,
    inputs: tuple[Any, ...],
    restart: Callable[[], None],
    keywords: Mapping[str, Any] | None = None,
) -> Any:
    """Run a model twice on copies of its example inputs, and return what it computes.

    Handlers see real values in these runs. The second one shows whether the result depends on the
    inputs alone: a counter or a cache of a model would be a constant of the file. Draws of
    PyTorch's generators are equal in both, and leave the generators as they were.

    Args:
        module: the model, in export mode.
        inputs: example inputs by position.
        restart: called in front of each run.
        keywords: example inputs by name.

    Returns:
        The outputs of the second run.

    Raises:
        ExportError: where the two runs differ.

    Example:
        >>> run_example(nn.Hardtanh(), (torch.tensor([3.0]),), lambda: None)
        tensor([1.])
    """
    buffers = {name: _version(buffer) for name, buffer in module.named_buffers()}
    outputs = []
    for _ in range(2):
        restart()
        with torch.random.fork_rng(_devices(module)):
            outputs.append(module(*copied(inputs), **copied(dict(keywords or {}))))
    if not _equal(*outputs):
        changed = [n for n, b in module.named_buffers() if buffers.get(n) != _version(b)]
        raise keeps_state(changed, type(module).__name__)
    return outputs[1]


def _devices(module: nn.Module) -> list[torch.device]:
    tensors = (*module.parameters(), *module.buffers())
    return sorted({t.device for t in tensors if t.device.type == "cuda"}, key=str)


def _version(buffer: Tensor) -> tuple[int, int]:
    """Identify a tensor and the number of changes in place so far."""
    return id(buffer), -1 if buffer.is_inference() else buffer._version


def _equal(first: Any, second: Any) -> bool:
    """Whether two results are equal in structure and in every value, NaN counted as a value."""
    one, other = (tree_leaves(plain_values(result)) for result in (first, second))
    return len(one) == len(other) and all(map(_same, one, other))


def _same(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return type(one) is type(other)
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(torch.eq(one, other).logical_or((one != one) & (other != other)).all())
