"""An interrupted run resumes exactly, in the statistics phase and after it."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

import brevitas.nn as qnn
from brevitas.inject.enum import ScalingImplType
from brevitas.quant import Int8WeightPerTensorFloat, ShiftedUint8ActPerTensorFloat

LearnedWeight = Int8WeightPerTensorFloat.let(scaling_impl_type=ScalingImplType.PARAMETER_FROM_STATS)
COLLECTED = 4


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        qnn.QuantIdentity(collect_stats_steps=COLLECTED),
        qnn.QuantLinear(4, 3, weight_quant=LearnedWeight),
        qnn.QuantReLU(bit_width=4, collect_stats_steps=COLLECTED),
        qnn.QuantLinear(
            3, 2, input_quant=ShiftedUint8ActPerTensorFloat, input_collect_stats_steps=COLLECTED
        ),
    )


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = (step + 1) * torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-2)


@pytest.mark.parametrize("interrupted", [1, 3, 4, 6])
@pytest.mark.parametrize("weights_only", [True, False])
def test_resumes_exactly(interrupted, weights_only):
    through = build()
    optimizer = adam(through)
    train(through, optimizer, range(8))

    first = build()
    optimizer = adam(first)
    train(first, optimizer, range(interrupted))
    stream = io.BytesIO()
    torch.save({"model": first.state_dict(), "optimizer": optimizer.state_dict()}, stream)
    stream.seek(0)
    stored = torch.load(stream, weights_only=weights_only)

    second = build()
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(1.0)
    optimizer = adam(second)
    second.load_state_dict(stored["model"])
    optimizer.load_state_dict(stored["optimizer"])
    train(second, optimizer, range(interrupted, 8))
    expected = through.state_dict()
    for key, value in second.state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_a_file_without_progress_ends_the_phase():
    """Files of other libraries, and of older versions, hold keys and values only."""
    first = build()
    train(first, adam(first), range(2))
    keys_only = dict(first.state_dict())
    second = build()
    second.load_state_dict(keys_only)
    before = second[0].act_quant.scale().detach().clone()
    second(100 * torch.randn(8, 4))
    assert torch.equal(second[0].act_quant.scale().detach(), before)
    assert second[0].act_quant.scale().requires_grad


def test_optimizer_of_a_loaded_model_trains_its_scales():
    first = build()
    train(first, adam(first), range(6))
    second = build()
    optimizer = adam(second)
    second.load_state_dict(first.state_dict())
    scales = [key for key, _ in second.named_parameters() if key.endswith("scaling_impl.value")]
    before = {key: p.detach().clone() for key, p in second.named_parameters()}
    train(second, optimizer, range(6, 8))
    after = dict(second.named_parameters())
    assert len(scales) == 4
    assert not any(torch.equal(after[key], before[key]) for key in scales)
