"""Example inputs, run with real values before a trace."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from brevitas.export.common.examples import copied, run_example
from brevitas.export.common.spec import ExportError
from brevitas.quant_tensor import IntQuantTensor


class Stateful(nn.Module):
    def __init__(self, change: Callable[[Stateful, Tensor], Tensor]) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))
        self.hidden = torch.zeros(())
        self.calls = 0
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self, x)


def counted(model: Stateful, x: Tensor) -> Tensor:
    model.calls += 1
    return x * model.calls


def remembered(model: Stateful, x: Tensor) -> Tensor:
    model.hidden = model.hidden + x.sum()
    return x + model.hidden


def in_a_buffer(model: Stateful, x: Tensor) -> Tensor:
    model.steps += 1
    return x * model.steps


def in_a_new_buffer(model: Stateful, x: Tensor) -> Tensor:
    model.steps = model.steps + 1
    return x * model.steps


@pytest.mark.parametrize("change", [counted, remembered])
def test_a_result_that_depends_on_earlier_calls_is_refused(change: Callable[..., Tensor]) -> None:
    with pytest.raises(ExportError, match="equal inputs gave different.*Layer: Stateful$"):
        run_example(Stateful(change), (torch.ones(2),), lambda: None)


@pytest.mark.parametrize("change", [in_a_buffer, in_a_new_buffer])
def test_the_buffer_that_changes_is_named(change: Callable[..., Tensor]) -> None:
    with pytest.raises(ExportError, match="changes the buffer 'steps'.*Layer: Stateful$"):
        run_example(Stateful(change), (torch.ones(2),), lambda: None)


def test_inputs_and_random_state_are_as_before() -> None:
    x, y = torch.ones(3), torch.zeros(3)
    before = torch.get_rng_state()

    class InPlace(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x.add_(torch.rand(3)).mul_(float("nan")) + y.add_(1)

    assert run_example(InPlace(), (x,), lambda: None, {"y": y}).isnan().all()
    assert torch.equal(x, torch.ones(3))
    assert torch.equal(y, torch.zeros(3))
    assert torch.equal(torch.get_rng_state(), before)


def test_every_run_starts_anew() -> None:
    starts: list[int] = []
    run_example(nn.ReLU(), (torch.ones(1),), lambda: starts.append(1))
    assert len(starts) == 2


def test_copies_keep_the_structure() -> None:
    q = IntQuantTensor(torch.ones(2), 0.5, 0.0, 8.0, True, False)
    marked = torch.ones(2, requires_grad=True)
    copy, (second, number) = copied((q, [marked, 3]))
    assert isinstance(copy, IntQuantTensor)
    assert torch.equal(copy.value, q.value)
    assert copy.value is not q.value
    assert not second.requires_grad
    assert number == 3
