"""Two values: where zero goes, which elements learn, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from brevitas.core.function_wrapper import TensorClamp, TensorClampSte
from brevitas.core.quant import BinaryQuant, ClampedBinaryQuant
from brevitas.core.scaling import ConstScaling, ParameterScaling

KINDS = [BinaryQuant, ClampedBinaryQuant]
every_kind = pytest.mark.parametrize("kind", KINDS)
X = torch.tensor([-3.0, -0.5, -0.0, 0.0, 0.2, 0.5, 3.0])


@every_kind
def test_zero_becomes_the_scale(kind: Any) -> None:
    value, scale, zero_point, bit_width = kind(ConstScaling(0.5))(X)
    assert value.tolist() == [-0.5, -0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert scale.tolist() == [0.5] and zero_point == 0 and bit_width == 1


@pytest.mark.parametrize(
    ("tensor_quant", "learns"),
    [
        (BinaryQuant(ConstScaling(0.5)), [True] * 7),
        (ClampedBinaryQuant(ConstScaling(0.5)), [False, True, True, True, True, True, False]),
        (ClampedBinaryQuant(ConstScaling(0.5), TensorClampSte()), [True] * 7),
    ],
)
def test_gradient_is_the_scale_where_the_quantizer_learns(tensor_quant, learns) -> None:
    x = X.clone().requires_grad_()
    tensor_quant(x)[0].sum().backward()
    assert x.grad.tolist() == [0.5 if learning else 0.0 for learning in learns]


def test_gradient_of_a_learned_scale() -> None:
    straight, clamped = (kind(ParameterScaling(0.5)) for kind in KINDS)
    for tensor_quant in (straight, clamped):
        (tensor_quant(X)[0] * torch.arange(7.0)).sum().backward()
    signs = -0.0 - 1.0 + 2 + 3 + 4 + 5 + 6
    assert straight.scaling_impl.value.grad == signs
    # The clamp hands the gradient of the last element, 6 * scale, on to its bound.
    assert clamped.scaling_impl.value.grad == signs + 6 * 0.5


@every_kind
def test_states_its_integers(kind: Any) -> None:
    tensor_quant = kind(ConstScaling(0.5))
    assert tensor_quant.signed is tensor_quant.narrow_range is True
    assert tensor_quant.rounding_mode == "ROUND"
    assert tensor_quant.to_int(X, torch.tensor([0.5])).unique().tolist() == [-1, 1]
    assert list(tensor_quant.state_dict()) == []


@every_kind
def test_parts_have_to_be_modules(kind: Any) -> None:
    with pytest.raises(TypeError, match=r"scaling_impl=0.1: expected a torch.nn.Module"):
        kind(0.1)
    with pytest.raises(ValueError, match="quant_delay_steps=-1: expected an int >= 0"):
        kind(ConstScaling(0.5), quant_delay_steps=-1)


def test_refused_arguments() -> None:
    with pytest.raises(TypeError, match="tensor_clamp_impl=<built-in"):
        ClampedBinaryQuant(ConstScaling(0.5), torch.clamp_)
    with pytest.raises(ValueError, match=r"signed=False: expected True.*bit_width=1, signed=False"):
        BinaryQuant(ConstScaling(0.5), signed=False)


def test_each_quantizer_has_a_clamp_of_its_own() -> None:
    first, second = ClampedBinaryQuant(ConstScaling(1.0)), ClampedBinaryQuant(ConstScaling(1.0))
    assert type(first.tensor_clamp_impl) is TensorClamp
    assert first.tensor_clamp_impl is not second.tensor_clamp_impl


@every_kind
def test_dtype_and_device_reach_the_constants(kind: Any) -> None:
    tensor_quant = kind(ConstScaling(0.5), dtype=torch.float64, device=torch.device("meta"))
    names = ("bit_width.bit_width.value", "zero_point.value")
    for buffer in map(tensor_quant.get_buffer, names):
        assert buffer.dtype is torch.float64 and buffer.is_meta


@every_kind
def test_delay(kind: Any) -> None:
    tensor_quant = kind(ConstScaling(0.5), quant_delay_steps=2)
    steps = [tensor_quant(X)[0] for _ in range(3)]
    assert torch.equal(steps[0], X) and torch.equal(steps[1], X)
    assert steps[2].abs().unique().tolist() == [0.5]


class Listed(nn.Module):
    """A scale of a user's own, with an argument that it does not share with ours."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.abs().amax(0, keepdim=True)


@every_kind
def test_a_scale_of_a_users_own(kind: Any) -> None:
    x = torch.tensor([[1.0, -2.0], [-3.0, 0.5]])
    value, scale, *_ = kind(Listed())(x)
    assert torch.equal(scale, torch.tensor([[3.0, 2.0]]))
    assert torch.equal(value, torch.tensor([[3.0, -2.0], [-3.0, 2.0]]))
