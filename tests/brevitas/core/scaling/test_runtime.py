"""Scales that follow the statistics of a batch, or of the parameter that is quantized."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from brevitas import config
from brevitas.core.function_wrapper import CeilSte, OverOutputChannelView, OverTensorView
from brevitas.core.restrict_val import LogFloatRestrictValue, PowerOfTwoRestrictValue
from brevitas.core.scaling import RuntimeStatsScaling, StatsFromParameterScaling
from brevitas.core.stats import AbsMax

THRESHOLD = torch.tensor(8.0)
AVERAGE = "runtime_stats.running_stats"


def _runtime(**arguments: object) -> RuntimeStatsScaling:
    return RuntimeStatsScaling(AbsMax(), OverTensorView(), (), **arguments)


def _batches() -> list[Tensor]:
    return [torch.randn(50) * (step + 1) for step in range(4)]


@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
def test_batch_in_training_average_in_evaluation(momentum: float | None) -> None:
    scaling, average = _runtime(scaling_stats_momentum=momentum), None
    for count, x in enumerate(_batches(), 1):
        statistic = x.abs().max()
        assert torch.equal(scaling.train()(x, THRESHOLD), statistic / THRESHOLD)
        weight = 1 / count if momentum is None else momentum
        average = statistic if count == 1 else average + (statistic - average) * weight
        torch.testing.assert_close(scaling.eval()(x, THRESHOLD), average / THRESHOLD)
        torch.testing.assert_close(scaling.state_dict()[AVERAGE], average)


def test_evaluation_leaves_the_average_alone() -> None:
    scaling = _runtime().eval()
    assert scaling(torch.tensor([9.0]), THRESHOLD).item() == 1 / 8
    assert scaling.state_dict()[AVERAGE].item() == 1.0


def test_gradient_goes_to_the_statistic() -> None:
    x = torch.tensor([-4.0, 2.0], requires_grad=True)
    _runtime()(x, THRESHOLD).backward()
    assert x.grad.tolist() == [-1 / 8, 0.0]


def test_learned_affine_map_of_the_statistic() -> None:
    scaling = _runtime(scaling_affine_rescaling_init=2.0, scaling_affine_shifting_init=1.0)
    assert list(scaling.state_dict()) == [
        AVERAGE,
        "affine_rescaling.affine_weight",
        "affine_rescaling.affine_bias",
    ]
    scale = scaling(torch.tensor([-4.0, 2.0]), THRESHOLD)
    scale.backward()
    assert scale.item() == (4 * 2 + 1) / 8
    assert scaling.affine_rescaling.affine_weight.grad.item() == 4 / 8
    assert scaling.affine_rescaling.affine_bias.grad.item() == 1 / 8


@pytest.mark.parametrize(
    ("restriction", "real"),
    [
        (LogFloatRestrictValue(), lambda x: x),
        (PowerOfTwoRestrictValue(CeilSte()), lambda x: 2.0 ** x.log2().ceil()),
    ],
)
@pytest.mark.parametrize("minimum", [None, 5.0])
def test_restricted(restriction: nn.Module, real: object, minimum: float | None) -> None:
    scaling = _runtime(restrict_scaling_impl=restriction, scaling_min_val=minimum)
    for x in _batches():
        smallest = minimum or 0.0
        # Clamped before it is restricted, too: the logarithm of zero has no gradient.
        expected = real(x.abs().max().clamp_min(smallest)).clamp_min(smallest) / THRESHOLD
        # log2 and exp2 are exact to a few units in the last place.
        torch.testing.assert_close(scaling(x, THRESHOLD), expected, rtol=8 * 1.2e-7, atol=0.0)


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputation_does_not_average_twice(reentrant: bool) -> None:
    plain, recomputed = _runtime(), _runtime()
    for x in _batches():
        plain(x)
        leaf = x.clone().requires_grad_()
        checkpoint(recomputed, leaf, use_reentrant=reentrant).backward()
    assert torch.equal(plain.state_dict()[AVERAGE], recomputed.state_dict()[AVERAGE])


@pytest.mark.usefixtures("empty_memory_is_nan")
def test_built_on_the_meta_device() -> None:
    with torch.device("meta"):
        scaling = _runtime()
    scaling = scaling.to_empty(device="cpu")
    for value in (1.0, 2.0, 6.0):
        scaling(torch.tensor([value]))
    # 1, then 1.1, then 0.9 * 1.1 + 0.1 * 6
    assert scaling.state_dict()[AVERAGE].item() == pytest.approx(1.59)


def test_compiled_without_recompilation() -> None:
    torch.compiler.reset()
    eager = _runtime()
    scaling = copy.deepcopy(eager)
    compiled = torch.compile(scaling, fullgraph=True, backend="aot_eager")
    with torch.compiler.set_stance("default"), torch._dynamo.config.patch(recompile_limit=1):
        for x in _batches():
            torch.testing.assert_close(compiled(x), eager(x))
    torch.testing.assert_close(scaling.state_dict(), eager.state_dict())


def test_deepcopy_goes_on_alone() -> None:
    scaling = _runtime()
    scaling(torch.tensor([2.0]))
    other = copy.deepcopy(scaling)
    other(torch.tensor([4.0]))
    assert scaling.state_dict()[AVERAGE].item() == 2.0
    assert other.state_dict()[AVERAGE].item() == pytest.approx(2.2)


def test_ignored_missing_keys() -> None:
    scaling = _runtime()
    with pytest.raises(RuntimeError, match="running_stats"):
        scaling.load_state_dict({})
    with config.overrides(IGNORE_MISSING_KEYS=True):
        scaling.load_state_dict({})


# Parameters --------------------------------------------------------------------------------------


def _per_tensor(*weights: nn.Parameter, **arguments: object) -> StatsFromParameterScaling:
    return StatsFromParameterScaling(AbsMax(), OverTensorView(), 0, list(weights), (), **arguments)


def _per_channel(*weights: nn.Parameter) -> StatsFromParameterScaling:
    shape = (weights[0].shape[0], 1)
    view = OverOutputChannelView()
    return StatsFromParameterScaling(AbsMax(1), view, 1, list(weights), shape)


def _weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


def test_statistic_of_the_parameter() -> None:
    weight = _weight(3, 5)
    maximum = weight.detach().abs().max()
    assert torch.equal(_per_tensor(weight)(weight, THRESHOLD), maximum / THRESHOLD)
    rows = weight.detach().abs().amax(1, keepdim=True)
    assert torch.equal(_per_channel(weight)(weight, THRESHOLD), rows / THRESHOLD)


def test_the_parameter_is_read_at_each_call() -> None:
    weight = _weight(3, 5)
    scaling = _per_tensor(weight)
    weight.data.mul_(3)
    assert torch.equal(scaling(weight, THRESHOLD), weight.detach().abs().max() / THRESHOLD)
    assert torch.equal(scaling(None, THRESHOLD), weight.detach().abs().max() / THRESHOLD)


def test_joint_statistic_of_several_parameters() -> None:
    first, second = _weight(3, 5), _weight(3, 7)
    joined = torch.cat([first.detach(), second.detach()], 1).abs()
    for weight in (first, second):
        assert torch.equal(_per_tensor(first, second)(weight, THRESHOLD), joined.max() / THRESHOLD)
        scale = _per_channel(first, second)(weight, THRESHOLD)
        assert torch.equal(scale, joined.amax(1, keepdim=True) / THRESHOLD)


def test_the_parameter_belongs_to_its_layer() -> None:
    scaling = _per_tensor(_weight(3, 5))
    assert not list(scaling.parameters()) and not scaling.state_dict()


def test_affine_map_of_a_parameters_statistic() -> None:
    weight = _weight(3, 5)
    scaling = _per_tensor(
        weight, scaling_affine_rescaling_init=2.0, scaling_affine_shifting_init=0.5
    )
    expected = (weight.detach().abs().max() * 2 + 0.5) / THRESHOLD
    torch.testing.assert_close(scaling(weight, THRESHOLD), expected, check_layout=False)
    prefix = "parameter_list_stats.affine_rescaling.affine_"
    assert list(scaling.state_dict()) == [prefix + "weight", prefix + "bias"]


def test_no_parameter() -> None:
    with pytest.raises(ValueError, match="tracked_parameter_list is empty"):
        _per_tensor()
