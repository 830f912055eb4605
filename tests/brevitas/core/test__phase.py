"""A phase advances by one per training forward, in every mode of running."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

import brevitas.nn as qnn
from brevitas.core._phase import HostModule, PhasedModule, _modules_by_handle, in_backward


class Counted(PhasedModule):
    """Counts the training forwards that it was told of, and keeps what they have seen."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        self.seen: list[float] = []
        self.total = torch.zeros(())

    def advance(self, average: Tensor, statistic: Tensor) -> None:
        self.steps += 1
        self.seen.append(float(statistic))
        average.add_(statistic)

    def forward(self, x: Tensor) -> Tensor:
        self.take_step(self.total, x.detach().sum())
        return x.sin()


def _compiled(module: nn.Module) -> Callable[[Tensor], Tensor]:
    torch.compiler.reset()
    return torch.compile(module, fullgraph=True, backend="aot_eager")


def _eager(module: nn.Module) -> Callable[[Tensor], Tensor]:
    return module


RUNS = [_eager, _compiled]
COPIES = [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))]


def test_the_base_does_not_advance() -> None:
    with pytest.raises(NotImplementedError, match="PhasedModule does not advance"):
        PhasedModule().advance(torch.zeros(()), torch.zeros(()))


@pytest.mark.parametrize("copied", COPIES, ids=["deepcopy", "pickle"])
def test_copies_are_issued_their_own_handles(copied: Callable[[Counted], Counted]) -> None:
    module = Counted()
    other = copied(module)
    assert other._handle != module._handle
    assert _modules_by_handle[int(module._handle)] is module
    assert _modules_by_handle[int(other._handle)] is other


def test_a_handle_ends_with_its_module() -> None:
    module = Counted()
    handle = module._handle
    del module
    assert int(handle) not in _modules_by_handle
    total = torch.zeros(())
    torch.ops.brevitas.advance_phase(total, torch.ones(()), handle)
    assert total == 0


@pytest.mark.parametrize("run", RUNS)
def test_one_step_per_forward(run: Callable[[nn.Module], Callable[[Tensor], Tensor]]) -> None:
    module = Counted()
    call = run(module)
    for value in (1.0, 2.0, 4.0):
        call(torch.tensor([value], requires_grad=True)).sum().backward()
    assert module.steps == 3 and module.seen == [1.0, 2.0, 4.0] and module.total == 7.0


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_recomputation_is_no_step(
    run: Callable[[nn.Module], Callable[[Tensor], Tensor]], reentrant: bool
) -> None:
    module = Counted()
    call = run(module)
    for _ in range(2):
        x = torch.ones(1, requires_grad=True)
        checkpoint(call, x, use_reentrant=reentrant).sum().backward()
        assert x.grad is not None
    assert module.steps == 2


def test_a_compiled_checkpoint_takes_one_step() -> None:
    """The checkpoint inside of the graph: the compiler recomputes in the backward graph."""
    module = Counted()

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.counted = module

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.counted, x, use_reentrant=False)

    call = _compiled(Block())
    for _ in range(2):
        call(torch.ones(1, requires_grad=True)).sum().backward()
    assert module.steps == 2


def test_in_backward() -> None:
    inside: list[bool] = []
    x = torch.ones(1, requires_grad=True)
    y = x * 2
    y.register_hook(lambda grad: inside.append(in_backward()))
    assert not in_backward()
    y.sum().backward()
    assert inside == [True] and not in_backward()


def test_a_copy_of_a_compiled_module_counts_for_itself() -> None:
    first = Counted()
    _compiled(first)(torch.ones(1))
    second = copy.deepcopy(first)
    torch.compile(second, fullgraph=True, backend="aot_eager")(torch.ones(1))
    assert first.steps == 1 and second.steps == 2


@pytest.mark.parametrize("count", [12])
def test_layers_compiled_one_by_one_share_their_graphs(count: int) -> None:
    """Dynamo gives up at eight graphs of one forward; all layers together need two."""
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    layers = [qnn.QuantIdentity(collect_stats_steps=2) for _ in range(count)]
    for layer in layers:
        layer.compile(backend=counter, fullgraph=True)
    for value in (2.0, 4.0, 8.0):
        for layer in layers:
            layer(torch.tensor([value, -0.5], requires_grad=True)).sum().backward()
    scalings = [
        layer.act_quant.fused_activation_quant_proxy.tensor_quant.scaling_impl for layer in layers
    ]
    assert [part.counter for part in scalings] == [2] * count
    # Moving average of 2 and 4 with momentum 0.1.
    assert all(part.value.item() == pytest.approx(2.2) for part in scalings)
    assert counter.frame_count == 2


def test_the_operator_stays_out_of_captured_graphs() -> None:
    operator = torch.ops.brevitas.advance_phase.default
    assert torch.Tag.cudagraph_unsafe in operator.tags
    assert operator._schema.is_mutable


def test_the_operator_on_the_meta_device_does_nothing() -> None:
    module = Counted()
    arguments = torch.zeros((), device="meta"), torch.zeros((), device="meta")
    torch.ops.brevitas.advance_phase(*arguments, module._handle.to("meta"))
    assert module.steps == 0


class _Host(HostModule):
    """Doubles what it is started from, which a compiler could not know."""

    def run_on_host(self, x, start):
        return start * float(x.max())

    def forward(self, x):
        return self.call_on_host(x, x[:1])


def test_work_on_the_host_is_one_operator_that_finds_its_module():
    x, first = torch.tensor([3.0, 2.0]), _Host()
    torch._dynamo.reset()
    for module in (first, copy.deepcopy(first)):
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(x), torch.tensor([9.0]))


def test_work_on_the_host_of_a_module_that_is_gone_gives_the_start():
    x, handle = torch.tensor([3.0, 2.0]), _Host()._handle
    gc.collect()
    order = torch.empty(0)
    assert torch.equal(torch.ops.brevitas.run_on_host(order, x, x[:1], handle), x[:1])
    with pytest.raises(NotImplementedError, match="HostModule has no work"):
        HostModule().run_on_host(x, x)
