"""How figures are taken: times in turns, bytes kept for the backward pass, operations, graphs."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

ROUNDS = (9, 101)  # at least, at most
WARM_UP = 3
# How far objects inside a node of the graph are followed, to tensors that it keeps by itself.
_DEPTH = 4


def clock() -> Callable[[], float]:
    """The clock that other programs disturb least.

    With one thread this is the processor time of the process, which stands still while another
    program has the core. Several threads wait for each other, and waiting is not work: there it is
    the clock on the wall.
    """
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def seconds(run: Callable[[], object]) -> float:
    """Seconds of one run."""
    now = clock()
    start = now()
    run()
    return now() - start


def in_turns(runs: Sequence[Callable[[], float]], budget: float) -> list[list[float]]:
    """Time several runs in turns: a slow moment of the machine hits all of them.

    Every second round goes backwards, so that none profits from the place after another.

    Args:
        runs: each runs once and returns its seconds.
        budget: seconds after which no further round begins.

    Returns:
        The seconds of each, without those of the warm-up.
    """
    for _ in range(WARM_UP):
        for run in runs:
            run()
    found: list[list[float]] = [[] for _ in runs]
    least, most = ROUNDS
    start = time.perf_counter()
    for turn in range(most):
        if turn >= least and time.perf_counter() - start > budget:
            break
        order = list(zip(runs, found, strict=True))
        for run, times in reversed(order) if turn % 2 else order:
            times.append(run())
    return found


def ratio(ours: Sequence[float], reference: Sequence[float]) -> dict[str, float]:
    """Compare neighbours.

    Returns:
        The median of the ratios, their quartiles, and the median time of each.
    """
    low, median, high = statistics.quantiles(
        [first / second for first, second in zip(ours, reference, strict=True)], n=4
    )
    return {
        "ratio": median,
        "low": low,
        "high": high,
        "ms": 1e3 * statistics.median(ours),
        "reference_ms": 1e3 * statistics.median(reference),
        "rounds": len(ours),
    }


def output_of(model: nn.Module, x: Tensor) -> Tensor:
    """The plain output of a model that may return a quantized tensor."""
    output: Any = model(x)
    return output if isinstance(output, Tensor) else output.value


def train_step(model: nn.Module, x: Tensor) -> None:
    """Forward, a loss, backward; gradients start anew."""
    model.zero_grad(set_to_none=True)
    x.grad = None
    output_of(model, x).square().mean().backward()


def inference(model: nn.Module, x: Tensor) -> None:
    """A forward without gradients."""
    with torch.no_grad():
        model(x)


def saved_bytes(model: nn.Module, x: Tensor) -> int:
    """Bytes that autograd keeps between forward and backward, each memory counted once.

    Parameters and the input are there in any case, and do not count. What a node of the graph
    keeps as an attribute, past the hooks for saved tensors, does.
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

    model(x)  # compiles what is compiled, outside of the hooks
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        output = output_of(model, x)
    for tensor in hidden_tensors(output):
        keep(tensor)
    return sum(kept.values())


def hidden_tensors(output: Tensor) -> Iterator[Tensor]:
    """Tensors that nodes of the graph keep as attributes, which no hook for saved tensors sees."""
    nodes, seen = [output.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes.extend(following for following, _ in node.next_functions)
        yield from _tensors_in(getattr(node, "__dict__", {}), _DEPTH)


def _tensors_in(thing: Any, depth: int) -> Iterator[Tensor]:
    """Tensors among values, and among what they refer to."""
    if isinstance(thing, Tensor):
        yield thing
    elif depth and not isinstance(thing, (type, nn.Module)) and not callable(thing):
        for inner in gc.get_referents(thing):
            yield from _tensors_in(inner, depth - 1)


class Operations(TorchDispatchMode):
    """Counts the operations that reach ATen."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def operations(model: nn.Module, x: Tensor, backward: bool = True) -> int:
    """Operations of a forward and a backward pass, or of a forward without gradients.

    The gradient of the output is given, so that no loss counts.
    """
    if not backward:
        with torch.no_grad(), Operations() as counted:
            model(x)
        return counted.count
    model.zero_grad(set_to_none=True)
    with torch.no_grad():
        gradient = torch.ones_like(output_of(model, x))
    with Operations() as counted:
        output_of(model, x).backward(gradient)
    return counted.count


class Graphs:
    """Compiles models and counts their graphs, the breaks between them, and later compilations.

    Example:
        >>> graphs = Graphs()
        >>> compiled = graphs.compiled(nn.ReLU())
        >>> _ = compiled(torch.ones(3))
        >>> graphs.count, graphs.breaks
        (1, 0)
    """

    def __init__(self, backend: str = "aot_eager") -> None:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        self.backend = backend

    def compiled(self, model: nn.Module) -> Any:
        """The compiled model."""
        return torch.compile(model, backend=self.backend)

    @property
    def count(self) -> int:
        """Graphs so far."""
        return torch._dynamo.utils.counters["stats"]["unique_graphs"]

    @property
    def breaks(self) -> int:
        """Breaks so far: places where Python runs between two graphs."""
        return sum(torch._dynamo.utils.counters["graph_break"].values())


def graphs_of_run(model: nn.Module, x: Tensor, steps: int, backend: str = "aot_eager") -> Any:
    """Graphs of a training run of one shape, and how many more each further mode needs.

    Args:
        model: a model whose statistics phase ends within the steps.
        x: its input; half of it is the other shape.
        steps: number of training steps.
        backend: of ``torch.compile``.

    Returns:
        Graphs of the run, and further graphs for evaluation and for another shape in training and
        in evaluation; the breaks.
    """
    graphs, other = Graphs(backend), x[: len(x) // 2]
    run = graphs.compiled(model.train())
    found: dict[str, int] = {}

    def further(name: str, work: Callable[[nn.Module, Tensor], None], value: Tensor) -> None:
        before = graphs.count
        for _ in range(steps):
            work(run, value)
        found[name] = graphs.count - before

    further("training", train_step, x)
    model.eval()
    further("evaluation", inference, x)
    further("evaluation of another shape", inference, other)
    model.train()
    further("training of another shape", train_step, other)
    return {**found, "breaks": graphs.breaks}
