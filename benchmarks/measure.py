"""How figures are taken: times in turns, bytes kept for the backward pass, operations of ATen."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode


def train_step(model: nn.Module, x: Tensor) -> None:
    """Forward, a loss, backward; gradients start anew."""
    model.zero_grad(set_to_none=True)
    _value(model(x)).square().mean().backward()


def inference(model: nn.Module, x: Tensor) -> None:
    """A forward without gradients."""
    with torch.no_grad():
        model(x)


def _value(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.value


def seconds(run: Callable[[], None]) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ratio(
    run: Callable[[], None], reference: Callable[[], None], repeats: int = 15
) -> dict[str, float]:
    """Run both in turns, and compare neighbours: a slow moment of the machine hits both.

    Returns:
        The median of the ratios, their quartiles, and the median time of each.
    """
    for _ in range(2):
        run(), reference()
    pairs = [(seconds(run), seconds(reference)) for _ in range(repeats)]
    ratios = [first / second for first, second in pairs]
    low, median, high = statistics.quantiles(ratios, n=4)
    return {
        "ratio": median,
        "low": low,
        "high": high,
        "ms": 1e3 * statistics.median(first for first, _ in pairs),
        "reference_ms": 1e3 * statistics.median(second for _, second in pairs),
    }


def saved_bytes(model: nn.Module, x: Tensor) -> int:
    """Bytes that autograd keeps between forward and backward, each memory counted once.

    Parameters and the input are there in any case, and do not count.
    """
    given = {tensor.untyped_storage().data_ptr() for tensor in (x, *model.parameters())}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in given:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # so that no memory is given out twice
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        model(x)
    return sum(kept.values())


class Operations(TorchDispatchMode):
    """Counts the operations that reach ATen."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def operations(model: nn.Module, x: Tensor) -> int:
    """Operations of one training step."""
    train_step(model, x)
    with Operations() as counted:
        train_step(model, x)
    return counted.count
