"""The pieces combine to quantizers, and a piece to the left wins."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import brevitas.nn as qnn
from brevitas.quant import _decoupled, base
from brevitas.quant.solver import ActQuantSolver, WeightQuantSolver

INTEGERS = {
    base.IntQuant: (-128, 127),
    base.NarrowIntQuant: (-127, 127),
    base.UintQuant: (0, 255),
}
GRANULARITY = [
    base.PerTensorFloatScaling8bit,
    base.PerChannelFloatScaling8bit,
    base.PerTensorPoTScaling8bit,
    base.PerChannelPoTScaling8bit,
]


@pytest.mark.parametrize("integer", INTEGERS)
@pytest.mark.parametrize("granularity", GRANULARITY)
@pytest.mark.parametrize("scaling", [base.MaxStatsScaling, base.MinMaxStatsScaling])
def test_weights_of_every_combination(integer: Any, granularity: Any, scaling: Any) -> None:
    class Quantizer(integer, scaling, granularity, WeightQuantSolver):
        """A combination."""

    layer = qnn.QuantLinear(6, 4, weight_quant=Quantizer)
    weight, tensor_quant = layer.quant_weight(), layer.weight_quant.tensor_quant
    lower, upper = INTEGERS[integer]
    bits = weight.bit_width
    assert tensor_quant.int_quant.min_int(bits) == lower
    assert tensor_quant.int_quant.max_int(bits) == upper
    assert weight.scale.shape == ((4, 1) if "PerChannel" in granularity.__name__ else ())
    if "PoT" in granularity.__name__:
        assert torch.equal(weight.scale.log2(), weight.scale.log2().round())


@pytest.mark.parametrize("integer", INTEGERS)
@pytest.mark.parametrize(
    "scaling",
    [
        base.ParamFromRuntimePercentileScaling,
        base.ParamFromRuntimePercentileIntervalScaling,
        base.ParamFromRuntimeMinMaxScaling,
        base.ParamMinMaxInitScaling,
        base.BatchQuantStatsScaling1d,
    ],
)
def test_activations_of_every_combination(integer: Any, scaling: Any) -> None:
    class Quantizer(integer, scaling, base.PerTensorFloatScaling8bit, ActQuantSolver):
        """A combination."""

        min_val, max_val = -1.0, 1.0

    quant = qnn.QuantIdentity(act_quant=Quantizer, return_quant_tensor=True)
    y = quant(torch.randn(2, 3, 10))
    lower, upper = INTEGERS[integer]
    assert y.int().min() >= lower and y.int().max() <= upper and y.is_valid


def test_the_left_piece_wins() -> None:
    class Quantizer(base.UintQuant, base.IntQuant):
        """Both say something about the sign."""

    assert Quantizer.signed is False


def test_every_piece_is_listed() -> None:
    assert {name for name, part in vars(base).items() if _is_declared_here(part)} == set(
        base.__all__
    )


def _is_declared_here(part: object) -> bool:
    homes = (base.__name__, _decoupled.__name__)
    return isinstance(part, type) and part.__module__ in homes
