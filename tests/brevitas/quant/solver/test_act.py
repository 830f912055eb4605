"""Scales of activations: every kind, its start, and its granularity."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import brevitas.nn as qnn
from brevitas.core import scaling
from brevitas.inject import DependencyError
from brevitas.inject.enum import ScalingImplType
from brevitas.quant import Int8ActPerTensorFloat, Uint8ActPerTensorFloat
from brevitas.quant.solver.act import ConstScalingInit, MinMaxScalingInit

KINDS = {
    ScalingImplType.CONST: scaling.ConstScaling,
    ScalingImplType.STATS: scaling.RuntimeStatsScaling,
    ScalingImplType.AFFINE_STATS: scaling.RuntimeStatsScaling,
    ScalingImplType.PARAMETER: scaling.ParameterScaling,
    ScalingImplType.PARAMETER_FROM_STATS: scaling.ParameterFromRuntimeStatsScaling,
}
GIVEN = (ScalingImplType.CONST, ScalingImplType.PARAMETER)


def _identity(**declared: Any) -> torch.nn.Module:
    declared = {"act_quant": Int8ActPerTensorFloat, "return_quant_tensor": True, **declared}
    return qnn.QuantIdentity(**declared)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind: ScalingImplType) -> None:
    declared = {"min_val": -1.0, "max_val": 2.0} if kind in GIVEN else {}
    quant = _identity(scaling_impl_type=kind, **declared)
    tensor_quant = quant.act_quant.fused_activation_quant_proxy.tensor_quant
    assert type(tensor_quant.scaling_impl) is KINDS[kind]
    x = torch.randn(50)
    largest = 2.0 if kind in GIVEN else x.abs().max()
    torch.testing.assert_close(quant(x).scale, torch.as_tensor(largest) / 128)


@pytest.mark.parametrize("kind", GIVEN)
def test_starts(kind: ScalingImplType) -> None:
    for declared, largest in (
        ({"min_val": -3.0, "max_val": 2.0}, 3.0),
        ({"max_val": 2.0}, 2.0),
        ({"max_val": torch.tensor(2.0), "min_val": torch.tensor(-2.5)}, 2.5),
        ({"scaling_init": 1.5}, 1.5),
        ({"scaling_init": torch.tensor(1.5)}, 1.5),
    ):
        scale = _identity(scaling_impl_type=kind, **declared).act_quant.scale()
        assert scale.item() == pytest.approx(largest / 128)


def test_a_constant_given_as_such() -> None:
    kind = ScalingImplType.CONST
    quant = _identity(scaling_impl_type=kind, scaling_const=1.5)
    assert quant.act_quant.scale().item() == pytest.approx(1.5 / 128)


def test_constant_ranges_of_activation_functions() -> None:
    for layer, low, high in (
        (qnn.QuantHardTanh, -1.0, 1.0),
        (qnn.QuantReLU, 0.0, 6.0),
        (qnn.QuantIdentity, -2.0, 1.0),
    ):
        quant = layer(scaling_impl_type=ScalingImplType.CONST, min_val=low, max_val=high)
        limit = 255 if layer is qnn.QuantReLU else 128
        assert quant.act_quant.scale().item() == pytest.approx(max(-low, high) / limit)
        assert not quant.state_dict()


@pytest.mark.parametrize("kind", GIVEN)
def test_no_start(kind: ScalingImplType) -> None:
    with pytest.raises(DependencyError, match="max_val"):
        _identity(scaling_impl_type=kind)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not ScalingImplType.CONST])
def test_one_scale_per_channel(kind: ScalingImplType) -> None:
    shape = (1, 3, 1, 1)
    quant = _identity(
        scaling_impl_type=kind,
        scaling_per_output_channel=True,
        per_channel_broadcastable_shape=shape,
        **({"max_val": 2.0} if kind in GIVEN else {}),
    )
    x = torch.randn(2, 3, 4, 5)
    y = quant(x)
    assert y.scale.shape == shape
    if kind not in GIVEN:
        torch.testing.assert_close(y.scale, x.abs().amax((0, 2, 3), keepdim=True) / 128)


def test_one_scale_per_channel_needs_the_shape() -> None:
    with pytest.raises(DependencyError, match="per_channel_broadcastable_shape"):
        _identity(scaling_per_output_channel=True)


@pytest.mark.parametrize(
    ("high", "low", "expected"),
    [
        (2.0, None, 2.0),
        (2.0, -3.0, 3.0),
        (torch.tensor([1.0, 2.0]), None, torch.tensor([1.0, 2.0])),
        (torch.tensor([1.0, 2.0]), -1.5, torch.tensor([1.5, 2.0])),
        (torch.tensor(1.0), torch.tensor(-4.0), torch.tensor(4.0)),
    ],
)
def test_range_to_largest_magnitude(high: Any, low: Any, expected: float | Tensor) -> None:
    start = MinMaxScalingInit(high, low)()
    assert torch.equal(torch.as_tensor(start), torch.as_tensor(expected))
    assert ConstScalingInit(high)() is high


def test_statistics_of_an_older_checkpoint_become_the_learned_scale() -> None:
    averaging = _identity(scaling_impl_type=ScalingImplType.STATS)
    averaging(torch.tensor([-3.0, 1.0]))
    learned = _identity()
    learned.load_state_dict(averaging.state_dict())
    assert learned.eval()(torch.ones(1)).scale.item() == pytest.approx(3.0 / 128)


def test_unsigned() -> None:
    quant = _identity(act_quant=Uint8ActPerTensorFloat, bit_width=4)
    y = quant(torch.tensor([-1.0, 30.0]))
    assert y.scale.item() == 2.0 and y.value.tolist() == [0.0, 30.0] and not y.signed
