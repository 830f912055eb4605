"""Three values: the threshold, which elements learn, what is refused."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from brevitas.core.quant import TernaryQuant
from brevitas.core.scaling import ConstScaling, ParameterScaling

X = torch.tensor([-3.0, -0.35, -0.1, 0.0, 0.34, 0.36, 3.0])


def test_up_to_the_threshold_is_zero() -> None:
    value, scale, zero_point, bit_width = TernaryQuant(ConstScaling(0.5), threshold=0.75)(X)
    assert value.tolist() == [-0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5]
    assert scale.tolist() == [0.5] and zero_point == 0 and bit_width == 2
    # Exactly at the threshold, 0.5 * 0.5, is zero, too.
    x = torch.tensor([0.25, 0.2500001, -0.25])
    assert TernaryQuant(ConstScaling(0.5), 0.5)(x)[0].tolist() == [0.0, 0.5, 0.0]


def test_gradient_is_the_scale_where_the_value_is_not_zero() -> None:
    x = X.clone().requires_grad_()
    tensor_quant = TernaryQuant(ParameterScaling(0.5), threshold=0.7)
    (tensor_quant(x)[0] * torch.arange(7.0)).sum().backward()
    assert x.grad.tolist() == [0.0, 0.0, 0.0, 0.0, 0.0, 2.5, 3.0]
    assert tensor_quant.scaling_impl.value.grad == 5 + 6


def test_states_its_integers() -> None:
    tensor_quant = TernaryQuant(ConstScaling(0.5), 0.5)
    assert tensor_quant.signed is tensor_quant.narrow_range is True
    assert tensor_quant.to_int(X, torch.tensor([0.5])).unique().tolist() == [-1, 0, 1]
    assert tensor_quant.rounding_mode == "ROUND"
    tensor_quant.threshold = 0.9
    assert tensor_quant.rounding_mode == "THRESHOLD"


@pytest.mark.parametrize("threshold", [-0.1, float("nan"), float("inf"), "0.5", None, True])
def test_refused_thresholds(threshold: object) -> None:
    tensor_quant = TernaryQuant(ConstScaling(0.5), 0.5)
    for build in (
        lambda: TernaryQuant(ConstScaling(0.5), threshold),
        lambda: setattr(tensor_quant, "threshold", threshold),
    ):
        with pytest.raises(ValueError, match=r"threshold=.*: expected a finite number >= 0"):
            build()
    assert tensor_quant.threshold == 0.5


def test_refused_parts() -> None:
    with pytest.raises(TypeError, match=r"scaling_impl=0.1: expected a torch.nn.Module"):
        TernaryQuant(0.1, 0.5)


def test_an_assigned_threshold_takes_effect_at_once_and_is_copied() -> None:
    tensor_quant = TernaryQuant(ConstScaling(0.5), 0.9)
    assert tensor_quant(X)[0].count_nonzero() == 2
    tensor_quant.threshold = 0.1
    assert tensor_quant(X)[0].count_nonzero() == 6
    for other in (copy.deepcopy(tensor_quant), pickle.loads(pickle.dumps(tensor_quant))):
        assert other.threshold == 0.1
        assert torch.equal(other(X)[0], tensor_quant(X)[0])


def test_dtype_and_device_reach_the_constants() -> None:
    options = {"dtype": torch.float64, "device": torch.device("meta")}
    tensor_quant = TernaryQuant(ConstScaling(0.5), 0.5, **options)
    for name in ("bit_width.bit_width.value", "zero_point.value"):
        buffer = tensor_quant.get_buffer(name)
        assert buffer.dtype is torch.float64 and buffer.is_meta


def test_delay() -> None:
    tensor_quant = TernaryQuant(ConstScaling(0.5), 0.5, quant_delay_steps=1)
    assert torch.equal(tensor_quant(X)[0], X)
    assert tensor_quant(X)[0].unique().tolist() == [-0.5, 0.0, 0.5]
