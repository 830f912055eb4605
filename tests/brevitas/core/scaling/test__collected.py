"""Collection is a phase: it advances by training steps and ends once, in every mode of running."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

from brevitas import config
from brevitas.core.function_wrapper import OverTensorView
from brevitas.core.quant import IntQuant
from brevitas.core.restrict_val import LogFloatRestrictValue
from brevitas.core.scaling import ParameterFromRuntimeStatsScaling
from brevitas.core.stats import AbsMax, NegativeMinOrZero
from brevitas.core.zero_point import ParameterFromRuntimeZeroPoint

ONE, BITS = torch.tensor(1.0), torch.tensor(8.0)


class Scaled(nn.Module):
    """A weight times the scale of its input: something with gradients on both sides."""

    def __init__(self, steps: int, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.part = ParameterFromRuntimeStatsScaling(
            steps, AbsMax(), scaling_stats_momentum=momentum
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.weight
        return x * self.part(x, ONE)


class Shifted(Scaled):
    """The same with a collected zero point."""

    def __init__(self, steps: int, momentum: float | None = 0.1) -> None:
        super().__init__(steps)
        self.part = ParameterFromRuntimeZeroPoint(
            steps,
            IntQuant(False, False),
            False,
            NegativeMinOrZero(),
            zero_point_stats_momentum=momentum,
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.weight
        return x * self.part(-x, ONE, BITS)


KINDS = [Scaled, Shifted]


def _statistic(model: Scaled, x: Tensor) -> Tensor:
    """Statistic of a batch whose largest magnitude is positive."""
    return x.max() if type(model) is Scaled else -x.max()


def _moving_average(statistics: list[float], momentum: float | None) -> float:
    average = statistics[0]
    for count, statistic in enumerate(statistics[1:], 2):
        weight = 1 / count if momentum is None else momentum
        average = (1 - weight) * average + weight * statistic
    return average


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("momentum", "expected"), [(0.1, 1.59), (None, 3.0), (1.0, 6.0)])
def test_moving_average(kind: type[Scaled], momentum: float | None, expected: float) -> None:
    model = kind(3, momentum)
    for value in (1.0, 2.0, 6.0):
        assert model.part.collecting
        model(torch.tensor([value, -0.1]))
    sign = 1.0 if kind is Scaled else -1.0
    assert not model.part.collecting
    assert _moving_average([1.0, 2.0, 6.0], momentum) == pytest.approx(expected)
    assert model.part.value.item() == pytest.approx(sign * expected)


@pytest.mark.parametrize("kind", KINDS)
def test_values_per_step(kind: type[Scaled]) -> None:
    model, statistics = kind(3), []
    for value in (1.0, 2.0, 6.0):
        x = torch.tensor([value, -0.1])
        statistics.append(value)
        # In training the scale is that of the batch, in evaluation that of the average so far.
        torch.testing.assert_close(model(x), x * value)
        average = _moving_average(statistics, 0.1)
        torch.testing.assert_close(model.eval()(x), x * average)
        model.train()
    for value in (9.0, 0.1):
        x = torch.tensor([value])
        torch.testing.assert_close(model(x), x * _moving_average(statistics, 0.1))


@pytest.mark.parametrize("kind", KINDS)
def test_before_the_first_batch(kind: type[Scaled]) -> None:
    model = kind(3).eval()
    start = 1.0 if kind is Scaled else 0.0
    assert model(torch.tensor([5.0])).item() == 5.0 * start
    assert model.part.counter == 0 and model.part.collecting


@pytest.mark.parametrize("kind", KINDS)
def test_the_future_parameter_takes_part_with_gradient_zero(kind: type[Scaled]) -> None:
    model = kind(2)
    for _ in range(2):
        model.zero_grad()
        model(torch.tensor([3.0])).sum().backward()
        assert model.part.value.grad.item() == 0.0
    model.zero_grad()
    model(torch.tensor([3.0])).sum().backward()
    assert abs(model.part.value.grad.item()) == 3.0


def test_the_statistic_passes_gradients_while_collecting() -> None:
    x = torch.tensor([-4.0, 2.0], requires_grad=True)
    part = ParameterFromRuntimeStatsScaling(2, AbsMax())
    part(x, torch.tensor(8.0)).backward()
    assert x.grad.tolist() == [-1 / 8, 0.0]


@pytest.mark.parametrize("kind", KINDS)
def test_ending_the_phase_by_hand(kind: type[Scaled]) -> None:
    model = kind(300)
    for value in (1.0, 2.0):
        model(torch.tensor([value]))
    end = model.part.init_scale if kind is Scaled else model.part.init_zp
    end()
    assert not model.part.collecting and abs(model.part.value.item()) == pytest.approx(1.1)
    model(torch.tensor([9.0]))
    assert abs(model.part.value.item()) == pytest.approx(1.1)


@pytest.mark.parametrize("bad", [-1, 0, 1.5, True, None])
def test_wrong_number_of_steps(bad: object) -> None:
    with pytest.raises(ValueError, match="collect_stats_steps=.*an int >= 1"):
        ParameterFromRuntimeStatsScaling(bad, AbsMax())


@pytest.mark.parametrize("bad", [-0.1, 1.1])
def test_wrong_momentum(bad: float) -> None:
    with pytest.raises(ValueError, match=r"momentum=.*None or a number in \[0, 1\]"):
        ParameterFromRuntimeStatsScaling(3, AbsMax(), scaling_stats_momentum=bad)


def test_no_grad_steps_advance_and_inference_mode_too() -> None:
    model = Scaled(2)
    with torch.no_grad():
        model(torch.tensor([2.0]))
    with torch.inference_mode():
        model(torch.tensor([4.0]))
    assert not model.part.collecting and model.part.value.item() == pytest.approx(2.2)
    model(torch.tensor([3.0])).sum().backward()
    assert model.part.value.grad.item() == 3.0


# Recomputation -----------------------------------------------------------------------------------


def _train(model: Scaled, call: Callable[[nn.Module, Tensor], Tensor]) -> list[list[Tensor]]:
    """Gradients of five steps, the flip of a phase of three among them."""
    gradients = []
    for step in range(1, 6):
        x = torch.tensor([float(step), -0.5], requires_grad=True)
        model.zero_grad()
        call(model, x).pow(2).sum().backward()
        gradients.append([x.grad, *(p.grad.clone() for p in model.parameters())])
    return gradients


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_changes_nothing(kind: type[Scaled], reentrant: bool) -> None:
    plain, recomputed = kind(3), kind(3)
    expected = _train(plain, lambda model, x: model(x))
    actual = _train(recomputed, lambda m, x: checkpoint(m, x, use_reentrant=reentrant))
    for a, e in zip(actual, expected, strict=True):
        assert all(torch.equal(*pair) for pair in zip(a, e, strict=True))
    assert recomputed.part.counter == 3
    assert torch.equal(plain.part.value, recomputed.part.value)


class Twice(Scaled):
    """One scale for two tensors, as in a shared quantizer."""

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.weight
        x = x * self.part(x, ONE)
        return x * self.part(x + 0.25, ONE)


class TwiceShifted(Shifted):
    """The same with a collected zero point."""

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.weight
        x = x * self.part(-x, ONE, BITS)
        return x * self.part(-x - 0.25, ONE, BITS)


def _recomputing(reentrant: bool) -> Callable[[nn.Module, Tensor], Tensor]:
    return lambda model, x: checkpoint(model, x, use_reentrant=reentrant)


def _plainly(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)


def _assert_all_equal(actual: list[list[Tensor]], expected: list[list[Tensor]]) -> None:
    for a, e in zip(actual, expected, strict=True):
        assert all(torch.equal(*pair) for pair in zip(a, e, strict=True))


@pytest.mark.parametrize("kind", [Twice, TwiceShifted])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_phase_ends_inside_of_a_checkpointed_block(
    kind: type[Scaled], reentrant: bool, steps: int
) -> None:
    """With an odd number of steps the first call of a block collects and the second learns."""
    plain, recomputed = kind(steps), kind(steps)
    expected = _train(plain, _plainly)
    _assert_all_equal(_train(recomputed, _recomputing(reentrant)), expected)
    assert recomputed.part.counter == steps
    assert torch.equal(plain.part.value, recomputed.part.value)


def _accumulate(
    model: Scaled, call: Callable[[nn.Module, Tensor], Tensor], values: tuple[float, ...]
) -> list[list[Tensor]]:
    """Gradients of steps with two forwards before one backward pass."""
    gradients = []
    for first, second in zip(values[::2], values[1::2], strict=True):
        batches = [torch.tensor([v, -0.5], requires_grad=True) for v in (first, second)]
        model.zero_grad()
        sum(call(model, x).pow(2).sum() for x in batches).backward()
        gradients.append([*(x.grad for x in batches), *(p.grad for p in model.parameters())])
    return gradients


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reentrant", [False, True])
def test_the_phase_ends_between_two_forwards_of_one_step(
    kind: type[Scaled], reentrant: bool
) -> None:
    plain, recomputed = kind(3), kind(3)
    values = (1.0, 2.0, 6.0, 3.0, 7.0, 6.0)
    expected = _accumulate(plain, _plainly, values)
    _assert_all_equal(_accumulate(recomputed, _recomputing(reentrant), values), expected)
    assert torch.equal(plain.part.value, recomputed.part.value)


@pytest.mark.parametrize("kind", [*KINDS, Twice, TwiceShifted])
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_fixed_batch_across_the_end_of_the_phase(kind: type[Scaled], reentrant: bool) -> None:
    """The batch of the last collecting step comes again, to be quantized as learned."""

    def train(model: Scaled, call: Callable[[nn.Module, Tensor], Tensor]) -> list[list[Tensor]]:
        gradients = []
        for _ in range(5):
            x = torch.tensor([3.0, -0.5], requires_grad=True)
            model.zero_grad()
            call(model, x).pow(2).sum().backward()
            gradients.append([x.grad, *(p.grad.clone() for p in model.parameters())])
        return gradients

    plain, recomputed = kind(2), kind(2)
    expected = train(plain, _plainly)
    _assert_all_equal(train(recomputed, _recomputing(reentrant)), expected)
    assert expected[0][-1].item() == 0.0 and expected[-1][-1].item() != 0.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_warm_up_batch_comes_back_in_a_checkpointed_step(
    kind: type[Scaled], reentrant: bool
) -> None:
    """The warm-up ends the phase; its batch is learned from in the forward and recomputed so."""
    plain, recomputed = kind(1), kind(1)
    with torch.no_grad():
        for model in (plain, recomputed):
            model(torch.tensor([1.0, -0.5]))
    expected = _train(plain, _plainly)
    _assert_all_equal(_train(recomputed, _recomputing(reentrant)), expected)
    assert expected[0][-1].item() != 0.0


# Compilation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_two_graphs_over_forty_steps(kind: type[Scaled]) -> None:
    torch.compiler.reset()
    eager, model = kind(20), kind(20)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for step in range(40):
        results = []
        for run, module in ((eager, eager), (compiled, model)):
            x = torch.tensor([1.0 + step % 7, -0.5], requires_grad=True)
            module.zero_grad()
            y = run(x)
            y.sum().backward()
            assert module.part.collecting is (step < 19)
            results.append([y.detach(), x.grad, *(p.grad.clone() for p in module.parameters())])
        assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
    assert counter.frame_count == 2
    assert torch.equal(eager.part.value, model.part.value)


def test_copies_of_a_compiled_module_collect_for_themselves() -> None:
    torch.compiler.reset()
    first = Scaled(3)
    second = copy.deepcopy(first)
    for model in (first, second):
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        compiled(torch.tensor([2.0]))
    assert first.part.counter == second.part.counter == 1


# Copies and construction -------------------------------------------------------------------------


def _saved_and_loaded(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), _saved_and_loaded]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("copied", COPIES, ids=["deepcopy", "pickle", "torch.save"])
def test_copies_go_on_alone(kind: type[Scaled], copied: Callable[[nn.Module], nn.Module]) -> None:
    model = kind(3)
    model(torch.tensor([1.0]))
    other = copied(model)
    assert other.part._handle != model.part._handle
    other(torch.tensor([2.0]))
    other(torch.tensor([6.0]))
    assert not other.part.collecting and abs(other.part.value.item()) == pytest.approx(1.59)
    assert model.part.collecting and model.part.counter == 1


@pytest.mark.usefixtures("empty_memory_is_nan")
@pytest.mark.parametrize("kind", KINDS)
def test_built_on_the_meta_device(kind: type[Scaled]) -> None:
    with torch.device("meta"):
        model = kind(2)
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        model.weight.fill_(1.0)
    before = 1.0 if kind is Scaled else 0.0
    assert model.eval()(torch.tensor([5.0])).item() == 5.0 * before
    model.train()
    for value in (2.0, 4.0):
        y = model(torch.tensor([value]))
        y.sum().backward()
        assert y.item() == value**2 and model.part.value.grad.item() == 0.0
    assert abs(model.part.value.item()) == pytest.approx(2.2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    part = ParameterFromRuntimeStatsScaling(2, AbsMax(), OverTensorView()).to(dtype)
    for value in (2.0, 4.0):
        assert part(torch.tensor([value], dtype=dtype), ONE).item() == value
    # One rounding for each of the two products of the average, and one for their sum.
    assert part.value.item() == pytest.approx(2.2, rel=3 * torch.finfo(dtype).eps)


# Checkpoints -------------------------------------------------------------------------------------


def _through_a_file(state: object) -> object:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_collected_leaves_no_key(kind: type[Scaled]) -> None:
    assert list(kind(3).state_dict()) == ["weight"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("assign", [False, True])
def test_an_interrupted_phase_resumes_exactly(
    kind: type[Scaled], momentum: float | None, assign: bool
) -> None:
    batches = [torch.tensor([float(v)]) for v in (1, 2, 6, 3, 7)]
    straight, interrupted = kind(4, momentum), kind(4, momentum)
    for x in batches[:2]:
        interrupted(x)
    resumed = kind(4, momentum)
    state = _through_a_file(nn.Sequential(interrupted).state_dict())
    nn.Sequential(resumed).load_state_dict(state, assign=assign)
    assert resumed.part.counter == 2 and resumed.part.collecting
    for x in batches:
        straight(x)
    for x in batches[2:]:
        resumed(x)
    assert torch.equal(resumed.part.value, straight.part.value)
    assert resumed.part.collecting is straight.part.collecting is False


@pytest.mark.parametrize("kind", KINDS)
def test_saving_does_not_tie_the_file_to_the_running_average(kind: type[Scaled]) -> None:
    model = kind(4)
    model(torch.tensor([1.0]))
    state = model.state_dict()
    saved = state["part.value"].clone()
    model(torch.tensor([6.0]))
    assert torch.equal(state["part.value"], saved)
    other = kind(4)
    other.load_state_dict(state)
    other(torch.tensor([6.0]))
    assert torch.equal(other.part.average, model.part.average)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_without_a_record_ends_the_phase(kind: type[Scaled]) -> None:
    model = kind(4)
    model(torch.tensor([2.0]))
    other = kind(4)
    other.load_state_dict(dict(model.state_dict()))
    assert not other.part.collecting
    other(torch.tensor([9.0]))
    assert abs(other.part.value.item()) == 2.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_finished_phase_stays_finished(kind: type[Scaled]) -> None:
    model = kind(1)
    model(torch.tensor([2.0]))
    other = kind(4)
    other.load_state_dict(_through_a_file(model.state_dict()))
    assert not other.part.collecting and torch.equal(other.part.value, model.part.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_without_the_key(kind: type[Scaled]) -> None:
    model = kind(2)
    with pytest.raises(RuntimeError, match='Missing key.*"part.value"'):
        model.load_state_dict({"weight": torch.ones(())})
    with config.overrides(IGNORE_MISSING_KEYS=True):
        model.load_state_dict({"weight": torch.ones(())})
    assert model.part.collecting


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("assign", [False, True])
def test_an_edited_value_wins_over_the_recorded_progress(kind: type[Scaled], assign: bool) -> None:
    model, other = kind(4), kind(4)
    model(torch.tensor([2.0]))
    state = model.state_dict()
    state["part.value"] = state["part.value"] * 3
    other.load_state_dict(state, assign=assign)
    assert not other.part.collecting and other.part.counter == 4
    assert abs(other.part.value.item()) == 6.0
    assert other(torch.tensor([5.0])).item() == 5.0 * 6.0
    assert other.eval()(torch.tensor([5.0])).item() == 5.0 * 6.0


@pytest.mark.usefixtures("empty_memory_is_nan")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 4])
def test_assigned_into_a_module_on_the_meta_device(kind: type[Scaled], steps: int) -> None:
    source = kind(steps)
    source(torch.tensor([2.0]))
    with torch.device("meta"):
        target = kind(steps)
    target.load_state_dict(_through_a_file(source.state_dict()), assign=True)
    assert target.part.collecting is (steps > 1) and target.part.counter == 1
    for model in (source, target):
        for value in (4.0, 6.0, 3.0, 9.0):
            model(torch.tensor([value])).sum().backward()
    assert torch.equal(source.part.value, target.part.value)
    assert torch.equal(source.part.value.grad, target.part.value.grad)
    assert torch.equal(*(model.eval()(torch.tensor([5.0])) for model in (source, target)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seen", [0, 2])
def test_an_end_by_hand_is_saved_as_an_end(kind: type[Scaled], seen: int) -> None:
    model, other = kind(300), kind(300)
    for _ in range(seen):
        model(torch.tensor([2.0]))
    model.part.finish_collection()
    assert model.part.counter == 300 and not model.part.collecting
    other.load_state_dict(_through_a_file(model.state_dict()))
    assert other.part.counter == 300 and not other.part.collecting
    assert torch.equal(other.part.value, model.part.value)


def test_an_end_by_hand_keeps_a_higher_count() -> None:
    part = ParameterFromRuntimeStatsScaling(2, AbsMax())
    part.collect_stats_steps = 2**62
    for _ in range(5):
        part(torch.ones(2))
    part.collect_stats_steps = 2
    part.finish_collection()
    assert part.counter == 5


@pytest.mark.parametrize("smallest", [1e-3, 0.25])
def test_a_scale_that_starts_from_zero_is_clamped(smallest: float) -> None:
    """The smallest value bounds the batch, the average and the learned scale alike."""
    part = ParameterFromRuntimeStatsScaling(2, AbsMax(), scaling_min_val=smallest)
    expected = torch.tensor(smallest)
    x = torch.zeros(4)
    for _ in range(2):
        assert torch.equal(part(x, ONE), expected)
        assert torch.equal(part.eval()(x, ONE), expected)
        part.train()
    assert not part.collecting
    scale = part(x, ONE)
    assert torch.equal(part.value.detach(), expected) and torch.equal(scale, expected)
    part.value.data.div_(2)
    assert torch.equal(part(x, ONE), expected)


def test_a_zero_statistic_in_the_domain_of_logarithms_is_finite() -> None:
    part = ParameterFromRuntimeStatsScaling(
        1, AbsMax(), restrict_scaling_impl=LogFloatRestrictValue(), scaling_min_val=0.25
    )
    part(torch.zeros(4), ONE)
    assert part.value.item() == -2.0 and part(torch.zeros(4), ONE).item() == 0.25


def test_the_stored_value_is_in_the_domain_of_the_parameter() -> None:
    def build() -> ParameterFromRuntimeStatsScaling:
        return ParameterFromRuntimeStatsScaling(
            3, AbsMax(), restrict_scaling_impl=LogFloatRestrictValue()
        )

    part = build()
    for value in (8.0, 18.0):
        part(torch.tensor([value]), ONE)
    # 0.9 * 8 + 0.1 * 18 = 9
    torch.testing.assert_close(part.state_dict()["value"], torch.tensor(9.0).log2())
    resumed = build()
    resumed.load_state_dict(part.state_dict())
    resumed(torch.tensor([9.0]), ONE)
    torch.testing.assert_close(resumed.value.data, torch.tensor(9.0).log2())
    torch.testing.assert_close(resumed.eval()(torch.ones(1), ONE), torch.tensor(9.0))
