"""Sharding with learned scalars: against one process on the whole batch, over two processes.

The file is also the program that each of the two processes runs.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as checkpoint
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import DataParallelMeshDims, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.functional import mse_loss

import brevitas.nn as qnn
from brevitas.quant import Int8WeightPerChannelFloat, Uint8ActPerTensorFloatMaxInit
from brevitas.utils.distributed import clip_grad_norm_, parameter_groups, shard

RANKS = 2
STEPS = 6
# Adding in another order moves a float32 sum by an eps or two per term; six steps with gradients
# and parameters near one, 40 terms each, stay below this.
TOLERANCE = 6 * 40 * torch.finfo(torch.float32).eps
ALL = StateDictOptions(full_state_dict=True)
WEIGHT_SCALE = "0.weight_quant.tensor_quant.scaling_impl.value"
FIRST_ACT_SCALE = "1.act_quant.fused_activation_quant_proxy.tensor_quant.scaling_impl.value"
LAST_ACT_SCALE = "3.act_quant.fused_activation_quant_proxy.tensor_quant.scaling_impl.value"
Values = dict[str, Tensor]


class Scaled(nn.Module):
    """`weight * factor * scale`: one parameter to shard, one 0-d, one written in forward."""

    written_in_forward = ("factor",)

    def __init__(self, scale: float = 3.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 2))
        self.factor = nn.Parameter(torch.ones(4, 1))
        self.scale = nn.Parameter(torch.tensor(scale))
        self.started = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.started:
            self.factor.data.fill_(2.0)
            self.started = True
        return x @ (self.weight * self.factor).t() * self.scale


def quantized(collect_stats_steps: int = 0) -> nn.Sequential:
    """Learned scales per channel and per tensor, statistics of weights and of activations."""
    torch.manual_seed(0)
    started = {"act_quant": Uint8ActPerTensorFloatMaxInit, "max_val": 1.0}
    collected = {"collect_stats_steps": collect_stats_steps}
    return nn.Sequential(
        qnn.QuantLinear(
            6,
            7,
            True,
            weight_quant=Int8WeightPerChannelFloat,
            weight_scaling_impl_type="parameter_from_stats",
        ),
        qnn.QuantReLU(**(collected if collect_stats_steps else started)),
        qnn.QuantLinear(7, 5, True, weight_bit_width=4),
        qnn.QuantReLU(act_quant=Uint8ActPerTensorFloatMaxInit, max_val=0.3),
        qnn.QuantLinear(5, 3, True, weight_quant=Int8WeightPerChannelFloat),
    )


def batch(step: int, rank: int | None = None) -> tuple[Tensor, Tensor]:
    """Inputs and targets of a step: all of them, or a rank's share."""
    generator = torch.Generator().manual_seed(step)
    pair = (torch.randn(8, 6, generator=generator), torch.randn(8, 3, generator=generator))
    if rank is None:
        return pair
    return pair[0].chunk(RANKS)[rank], pair[1].chunk(RANKS)[rank]


def loss(model: nn.Module, step: int, rank: int | None = None) -> Tensor:
    inputs, targets = batch(step, rank)
    return mse_loss(model(inputs), targets)


def train(model: nn.Module, rank: int | None = None) -> nn.Module:
    optimizer = torch.optim.SGD(parameter_groups(model), lr=0.05, momentum=0.9, foreach=True)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss(model, step, rank).backward()
        optimizer.step()
    return model


def whole(tensor: Tensor) -> Tensor:
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().clone()


def parameters(model: nn.Module) -> Values:
    return {name: whole(parameter) for name, parameter in model.named_parameters()}


def gradients(model: nn.Module) -> Values:
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {name: whole(gradient) for name, gradient in found.items() if gradient is not None}


# What the two processes do: each function's result is compared below.


def run_blocks(rank: int, folder: Path) -> Values:
    model = quantized()
    for layer in model:
        if list(layer.parameters()):
            shard(layer)
    return parameters(train(shard(model), rank))


def run_two_dimensional_mesh(rank: int, folder: Path) -> Values:
    mesh = init_device_mesh("cpu", (RANKS, 1), mesh_dim_names=("replicate", "shard"))
    return parameters(train(shard(quantized(), mesh=mesh), rank))


def run_flip(rank: int, folder: Path) -> Values:
    return parameters(train(shard(quantized(collect_stats_steps=3)), rank))


def run_accumulation(rank: int, folder: Path) -> Values:
    model = shard(quantized())
    for step in range(3):
        loss(model, step, rank).backward()
    return gradients(model)


def run_accumulation_without_sync(rank: int, folder: Path) -> Values:
    model = shard(quantized())
    for step in range(3):
        model.set_requires_gradient_sync(step == 2)
        loss(model, step, rank).backward()
    return gradients(model)


def run_unequal_starts(rank: int, folder: Path) -> Values:
    model = shard(Scaled(scale=3.0 + rank))
    started = whole(model.scale)
    model(torch.full((1, 2), 1.0 + rank)).sum().backward()
    return {"start": started, **gradients(model)}


def run_frozen_then_thawed(rank: int, folder: Path) -> Values:
    model = Scaled()
    model.scale.requires_grad_(False)
    shard(model).scale.requires_grad_(True)
    model(torch.full((1, 2), 1.0 + rank)).sum().backward()
    return gradients(model)


def run_new_parameters(rank: int, folder: Path) -> Values:
    model = shard(Scaled())
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    state["scale"] = torch.tensor(5.0 + rank)
    model.load_state_dict(state, assign=True)
    loaded = whole(model.scale)
    model.scale = nn.Parameter(torch.tensor(7.0 + rank))
    model(torch.full((1, 2), 1.0 + rank)).sum().backward()
    return {"loaded": loaded, "set": whole(model.scale), **gradients(model)}


def run_meta(rank: int, folder: Path) -> Values:
    source = quantized()
    loss(source, 0)
    with torch.device("meta"):
        model = quantized()
    shard(model).to_empty(device="cpu")
    from_rank_0 = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    given = dict(source.state_dict()) if rank == 0 else {}
    set_model_state_dict(model, given, options=from_rank_0)
    return parameters(train(model, rank))


def run_clipping(rank: int, folder: Path) -> Values:
    model = shard(quantized())
    loss(model, 0, rank).backward()
    norm = clip_grad_norm_(model.parameters(), 0.1)
    return {"norm": norm, **gradients(model)}


def run_full_state_dict(rank: int, folder: Path) -> Values:
    model = train(shard(quantized(collect_stats_steps=3)), rank)
    state = get_model_state_dict(model, options=ALL)
    plain = quantized(collect_stats_steps=3)
    plain.load_state_dict(state)
    after = {f"after {name}": value for name, value in parameters(plain).items()}
    return {**parameters(model), **after}


def run_sharded_checkpoint(rank: int, folder: Path) -> Values:
    model = train(shard(quantized()), rank)
    optimizer = torch.optim.Adam(parameter_groups(model))
    loss(model, 0, rank).backward()
    optimizer.step()
    state, optimizer_state = get_state_dict(model, optimizer)
    checkpoint.save({"model": state, "optimizer": optimizer_state}, checkpoint_id=folder / "saved")

    other = shard(quantized())
    loss(other, 1, rank)  # scales that have no value yet are in no state dict
    other_optimizer = torch.optim.Adam(parameter_groups(other))
    state, optimizer_state = get_state_dict(other, other_optimizer)
    checkpoint.load({"model": state, "optimizer": optimizer_state}, checkpoint_id=folder / "saved")
    # The state read from the model shares its memory, that of a file does not.
    state = {name: value.clone() for name, value in state.items()}
    set_state_dict(other, other_optimizer, model_state_dict=state, optim_state_dict=optimizer_state)
    after = {f"after {name}": value for name, value in parameters(other).items()}
    return {**parameters(model), **after}


CASES: dict[str, Callable[[int, Path], Values]] = {
    name.removeprefix("run_"): function
    for name, function in list(globals().items())
    if name.startswith("run_")
}


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=RANKS
    )
    results = {name: run(rank, folder) for name, run in CASES.items()}
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Values]]:
    """Results of every case, for each rank."""
    folder = tmp_path_factory.mktemp("ranks")
    processes = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(folder)])
        for rank in range(RANKS)
    ]
    try:
        codes = [process.wait(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes == [0] * RANKS
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


def assert_near(values: Values, expected: Values) -> None:
    assert values.keys() >= expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(values[name], value, rtol=TOLERANCE, atol=TOLERANCE, msg=name)


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_ranks_agree(ranks: list[dict[str, Values]], case: str) -> None:
    first, second = (results[case] for results in ranks)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.long
@pytest.mark.parametrize("case", ["blocks", "two_dimensional_mesh", "meta"])
def test_training_equals_one_process_on_the_whole_batch(
    ranks: list[dict[str, Values]], case: str
) -> None:
    model = quantized()
    starts = parameters(model)
    expected = parameters(train(model))
    assert_near(ranks[0][case], expected)
    # What was learned is more than the tolerance.
    for name in (WEIGHT_SCALE, FIRST_ACT_SCALE, LAST_ACT_SCALE):
        assert (expected[name] - starts[name]).abs().min() > 10 * TOLERANCE, name


@pytest.mark.long
def test_collected_scales_start_from_the_mean_over_ranks(ranks: list[dict[str, Values]]) -> None:
    # The start is 1.0, whereas the largest activation of these batches is another number.
    assert (ranks[0]["flip"][FIRST_ACT_SCALE] - 1.0).abs() > 0.05
    assert (ranks[0]["flip"][WEIGHT_SCALE] - 1.0).abs().min() > 0.05


@pytest.mark.long
@pytest.mark.parametrize("case", ["accumulation", "accumulation_without_sync"])
def test_accumulated_gradients(ranks: list[dict[str, Values]], case: str) -> None:
    model = quantized()
    for step in range(3):
        loss(model, step).backward()
    assert_near(ranks[0][case], gradients(model))


@pytest.mark.long
def test_rank_0_gives_the_start_and_gradients_are_means(ranks: list[dict[str, Values]]) -> None:
    # weight 1, factor 2 (written in forward), inputs 1 and 2 of width 2: 4 outputs of 4 and 8.
    case = ranks[0]["unequal_starts"]
    assert case["start"].item() == 3.0
    assert case["scale"].item() == (4 * 4 + 4 * 8) / 2
    assert case["factor"].flatten().tolist() == [3.0 * (2 + 4) / 2] * 4
    assert torch.equal(case["weight"], torch.full((4, 2), 3.0 * 2 * (1 + 2) / 2))


@pytest.mark.long
def test_thawed_parameter_is_averaged(ranks: list[dict[str, Values]]) -> None:
    assert ranks[0]["frozen_then_thawed"]["scale"].item() == (4 * 4 + 4 * 8) / 2


@pytest.mark.long
def test_replaced_parameters_are_followed(ranks: list[dict[str, Values]]) -> None:
    case = ranks[0]["new_parameters"]
    assert (case["loaded"].item(), case["set"].item()) == (5.0, 7.0)
    assert case["scale"].item() == (4 * 4 + 4 * 8) / 2


@pytest.mark.long
def test_clipping_counts_sharded_and_whole_gradients(ranks: list[dict[str, Values]]) -> None:
    model = quantized()
    loss(model, 0).backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    assert_near(ranks[0]["clipping"], {"norm": norm, **gradients(model)})


@pytest.mark.long
@pytest.mark.parametrize("case", ["full_state_dict", "sharded_checkpoint"])
def test_checkpoint_round_trip(ranks: list[dict[str, Values]], case: str) -> None:
    values = ranks[0][case]
    names = [name for name in values if not name.startswith("after ")]
    assert names == [name for name, _ in quantized().named_parameters()]
    for name in names:
        assert torch.equal(values[name], values[f"after {name}"]), name


# One process.


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """A mesh of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def is_sharded(module: nn.Module) -> dict[str, bool]:
    return {name: isinstance(each, DTensor) for name, each in module.named_parameters()}


def test_fully_shard_alone_refuses_scalars(mesh: DeviceMesh) -> None:
    with pytest.raises(ValueError, match="scalar parameters"):
        fully_shard(Scaled(), mesh=mesh)


def test_scalars_and_written_parameters_stay_whole(mesh: DeviceMesh) -> None:
    model = shard(Scaled(), mesh=mesh)
    assert is_sharded(model) == {"weight": True, "factor": False, "scale": False}
    assert model.scale.shape == ()


def test_blocks_first_then_the_model(mesh: DeviceMesh) -> None:
    model = nn.Sequential(Scaled(), nn.Linear(4, 4), Scaled())
    shard(model[0], mesh=mesh)
    shard(model, mesh=mesh)
    whole_ones = [name for name, sharded in is_sharded(model).items() if not sharded]
    assert whole_ones == ["0.factor", "0.scale", "2.factor", "2.scale"]


def test_list_of_modules(mesh: DeviceMesh) -> None:
    parts = [Scaled(), Scaled()]
    assert shard(parts, mesh=mesh) is parts
    assert all(is_sharded(part)["weight"] for part in parts)


def test_tied_and_integer_scalars(mesh: DeviceMesh) -> None:
    model = nn.Sequential(Scaled(), nn.Linear(4, 4))
    model.tied = model[0].scale
    model.count = nn.Parameter(torch.tensor(3), requires_grad=False)
    shard(model, mesh=mesh)
    model(torch.ones(1, 2)).sum().backward()
    assert model.tied is model[0].scale and model.tied.grad is not None


def test_ignored_parameters_stay_with_the_user(mesh: DeviceMesh) -> None:
    model = Scaled()
    shard(model, mesh=mesh, ignored_params={model.weight, model.scale})
    assert is_sharded(model) == {"weight": False, "factor": False, "scale": False}
    assert not model.scale._post_accumulate_grad_hooks
    model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
    assert not model.scale._post_accumulate_grad_hooks
    assert model.factor._post_accumulate_grad_hooks


def test_a_failed_backward_pass_does_not_stop_the_averaging(
    mesh: DeviceMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shard(Scaled(), mesh=mesh)
    reductions: list[int] = []
    all_reduce = dist.all_reduce

    def counted(tensor: Tensor, **arguments: object) -> object:
        reductions.append(tensor.numel())
        return all_reduce(tensor, **arguments)

    def fail(gradient: Tensor) -> None:
        raise RuntimeError("stopped here")

    monkeypatch.setattr(dist, "all_reduce", counted)
    inputs = torch.ones(1, 2, requires_grad=True)
    hook = inputs.register_hook(fail)
    with pytest.raises(RuntimeError, match="stopped here"):
        model(inputs).sum().backward()
    hook.remove()
    model.reset_iter_state()
    reductions.clear()
    model(inputs).sum().backward()
    assert reductions == [5]  # the scale and four factors, at once


def test_mesh_dims_are_refused(mesh: DeviceMesh) -> None:
    with pytest.raises(ValueError, match="dp_mesh_dims=DataParallelMeshDims.*expected None"):
        shard(Scaled(), mesh=mesh, dp_mesh_dims=DataParallelMeshDims(shard="data"))


def test_parameter_groups_keep_the_kinds_apart(mesh: DeviceMesh) -> None:
    model = shard(Scaled(), mesh=mesh)
    groups = [group["params"] for group in parameter_groups(model)]
    assert [len(group) for group in groups] == [1, 2]
    assert groups[0][0] is model.weight


@pytest.mark.parametrize("norm_type", [1.0, 2.0, torch.inf])
def test_clipping_equals_that_of_torch(norm_type: float) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(3, 4), nn.Linear(3, 4)]
    layers[1].load_state_dict(layers[0].state_dict())
    for layer in layers:
        layer(torch.ones(2, 3)).square().sum().backward()
    mine = clip_grad_norm_(layers[0].parameters(), 0.5, norm_type)
    theirs = nn.utils.clip_grad_norm_(layers[1].parameters(), 0.5, norm_type)
    torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(layers[0].weight.grad, layers[1].weight.grad)


def test_imports_stay_lean() -> None:
    code = (
        "import sys; import brevitas.utils, brevitas.nn;"
        "assert 'torch.distributed.fsdp' not in sys.modules;"
        "assert 'brevitas.utils.distributed' not in sys.modules;"
        "import brevitas.utils.distributed;"
        "assert 'torch._dynamo' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
