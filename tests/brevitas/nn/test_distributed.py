"""Plain `DistributedDataParallel` trains through the flip of the statistics phase.

Run as a program this file is one of the two processes; as a test it starts them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import brevitas.nn as qnn
from brevitas.graph.calibrate import calibration_mode
from brevitas.inject.enum import ScalingImplType
from brevitas.quant import Int8WeightPerTensorFloat, ShiftedUint8ActPerTensorFloat

STEPS, COLLECTED, CALIBRATED, WORLD = 5, 3, 4, 2
LearnedWeight = Int8WeightPerTensorFloat.let(scaling_impl_type=ScalingImplType.PARAMETER_FROM_STATS)

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="needs the gloo backend"
)


def build() -> nn.Module:
    return nn.Sequential(
        qnn.QuantIdentity(collect_stats_steps=COLLECTED),
        qnn.QuantLinear(4, 3, weight_quant=LearnedWeight),
        qnn.QuantReLU(bit_width=4, collect_stats_steps=COLLECTED),
        qnn.QuantLinear(
            3, 2, input_quant=ShiftedUint8ActPerTensorFloat, input_collect_stats_steps=COLLECTED
        ),
    )


def batch(rank: int, step: int) -> torch.Tensor:
    """Each rank sees data of another size, so that their statistics differ."""
    generator = torch.Generator().manual_seed(10 * step + rank)
    return (1 + 3 * rank + step) * torch.randn(8, 4, generator=generator)


def run_rank(rank: int, folder: Path) -> None:
    torch.manual_seed(rank)  # DDP gives all ranks the parameters of rank 0
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD
    )
    torch.set_num_threads(1)
    model = DistributedDataParallel(build())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    scales, phases = [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = model(batch(rank, step)).square().mean()
        scales.append(model.module[0].act_quant.scale().detach().clone())
        phases.append(_collecting(model))
        loss.backward()
        optimizer.step()
    state = {key: value.clone() for key, value in model.module.state_dict().items()}
    gradients = {key: p.grad.clone() for key, p in model.module.named_parameters()}
    results = {"state": state, "gradients": gradients, "scales": scales, "phases": phases}
    torch.save(results | {"calibrated": calibrate(rank)}, folder / f"{rank}.pt")
    dist.destroy_process_group()


def calibrate(rank: int) -> dict[str, torch.Tensor]:
    """State after a calibration on the data of this rank."""
    model = DistributedDataParallel(build()).eval()
    with torch.no_grad(), calibration_mode(model):
        for step in range(CALIBRATED):
            model(batch(rank, step))
    assert not any(_collecting(model))
    return {key: value.clone() for key, value in model.module.state_dict().items()}


def _collecting(model: nn.Module) -> list[bool]:
    return [m.collecting for m in model.modules() if hasattr(m, "collect_stats_steps")]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(folder)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(WORLD)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


def test_parameters_stay_equal(ranks):
    first, second = (rank["state"] for rank in ranks)
    assert first.keys() == second.keys()
    assert any(key.endswith("scaling_impl.value") for key in first)
    for key in first:
        assert torch.equal(first[key], second[key]), key


def test_gradients_are_shared(ranks):
    first, second = (rank["gradients"] for rank in ranks)
    for key in first:
        assert torch.equal(first[key], second[key]), key
        assert bool(first[key].isfinite().all())


def test_the_phase_ends_on_all_ranks_at_once(ranks):
    for rank in ranks:
        collecting = [any(phase) for phase in rank["phases"]]
        assert collecting == [step < COLLECTED - 1 for step in range(STEPS)]


def test_the_learned_scale_starts_from_the_mean_over_ranks(ranks):
    averages = []
    for rank in range(WORLD):
        largest = [batch(rank, step).abs().max() for step in range(COLLECTED)]
        average = largest[0]
        for newer in largest[1:]:
            average = 0.9 * average + 0.1 * newer
        averages.append(average)
    expected = torch.stack(averages).mean() / 128
    for rank in ranks:
        torch.testing.assert_close(rank["scales"][COLLECTED - 1], expected)


def test_calibration_averages_over_ranks(ranks):
    first, second = (rank["calibrated"] for rank in ranks)
    assert first.keys() == second.keys()
    for key in first:
        assert torch.equal(first[key], second[key]), key
    batches = [batch(rank, step) for rank in range(WORLD) for step in range(CALIBRATED)]
    expected = torch.stack([x.abs().max() for x in batches]).mean()
    key = "0.act_quant.fused_activation_quant_proxy.tensor_quant.scaling_impl.value"
    torch.testing.assert_close(first[key], expected)


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), Path(sys.argv[2]))
