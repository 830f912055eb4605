"""A delay passes the real value through for a number of training steps."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

from brevitas.core.quant.delay import DelayWrapper

X, Y = torch.tensor([0.3]), torch.tensor([0.0])


class Delayed(nn.Module):
    """A rounding whose start is delayed, behind a weight."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.delay = DelayWrapper(steps)

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.weight
        return self.delay(x, x + (x.round() - x).detach())


@pytest.mark.parametrize("steps", [None, 0])
def test_no_delay(steps: int | None) -> None:
    delay = DelayWrapper(steps)
    assert not delay.is_active and delay(X, Y) is Y


def test_real_values_for_the_first_steps() -> None:
    delay = DelayWrapper(3)
    assert [delay(X, Y) is X for _ in range(5)] == [True, True, True, False, False]
    assert not delay.is_active


def test_evaluation_does_not_count() -> None:
    delay = DelayWrapper(1).eval()
    assert delay(X, Y) is X and delay(X, Y) is X and delay.is_active
    delay.train()
    assert delay(X, Y) is X and delay(X, Y) is Y


@pytest.mark.parametrize("steps", [-1, 1.5, True, "3"])
def test_wrong_number_of_steps(steps: object) -> None:
    with pytest.raises(ValueError, match=r"quant_delay_steps=.*int >= 0 or None"):
        DelayWrapper(steps)


def test_compiled_into_two_graphs() -> None:
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    eager, model = Delayed(10), Delayed(10)
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for step in range(20):
        results = []
        for run in (eager, compiled):
            x = torch.tensor([0.3 + step], requires_grad=True)
            y = run(x)
            y.sum().backward()
            results.append((y.detach(), x.grad))
        assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
        assert torch.equal(results[0][0], x.detach() if step < 10 else x.detach().round())
        assert eager.delay.is_active is model.delay.is_active is (step < 9)
    assert counter.frame_count == 2


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_recomputation_does_not_count(reentrant: bool) -> None:
    model = Delayed(3)
    actual = []
    for _ in range(5):
        x = torch.tensor([0.3], requires_grad=True)
        y = checkpoint(model, x, use_reentrant=reentrant)
        y.square().sum().backward()
        actual.append(y.item())
    assert actual == [X.item()] * 3 + [0.0] * 2


def test_progress_travels_with_a_checkpoint() -> None:
    model = nn.Sequential(Delayed(3))
    model(X)
    model(X)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert list(state) == ["0.weight"]
    resumed = nn.Sequential(Delayed(3))
    resumed.load_state_dict(state)
    assert [torch.equal(resumed(X), X) for _ in range(2)] == [True, False]
    ended = nn.Sequential(Delayed(3))
    ended.load_state_dict(resumed.state_dict())
    assert not ended[0].delay.is_active


def test_without_a_record_the_delay_starts_anew() -> None:
    model, other = Delayed(3), Delayed(3)
    model(X)
    other.load_state_dict(dict(model.state_dict()))
    assert [torch.equal(other(X), X) for _ in range(4)] == [True, True, True, False]


def test_a_copy_counts_for_itself() -> None:
    model = Delayed(2)
    model(X)
    other = copy.deepcopy(model)
    assert torch.equal(other(X), X) and not other.delay.is_active and model.delay.is_active


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("batch", [lambda step: 0.3 + step, lambda step: 0.3])
def test_a_recomputation_sees_what_its_forward_saw(reentrant: bool, batch) -> None:
    """Also in the step that ends the delay, and with one batch in all steps."""
    plain, recomputed = Delayed(3), Delayed(3)
    for step in range(6):
        gradients = []
        for model in (plain, recomputed):
            x = torch.tensor([batch(step)], requires_grad=True)
            model.zero_grad()
            y = model(x) if model is plain else checkpoint(model, x, use_reentrant=reentrant)
            y.pow(2).sum().backward()
            gradients.append((x.grad, model.weight.grad.clone()))
        assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_the_choice_is_gone_after_the_step_that_ends_the_delay() -> None:
    model = Delayed(1)
    checkpoint(model, torch.tensor([0.3]), use_reentrant=False).sum().backward()
    assert not model.delay.is_active and model.delay.may_delay
    model(torch.tensor([0.3]))
    assert not model.delay.may_delay
