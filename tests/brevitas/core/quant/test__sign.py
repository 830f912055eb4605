"""The way of running follows from the quantizer and its parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from brevitas.core.quant import BinaryQuant, ClampedBinaryQuant, TernaryQuant
from brevitas.core.quant._sign import SignQuant
from brevitas.core.scaling import ConstScaling
from brevitas.ops.sign_quant import SignPlan

X = torch.tensor([-3.0, 0.2])


class Doubled(SignQuant):
    """Parts that cannot be taken for the fused operation, and a plan to choose."""

    chosen: SignPlan | None = None
    seen: torch.dtype | None = None

    @property
    def plan(self) -> SignPlan | None:
        return self.chosen

    def to_int(self, x: Tensor, scale: Tensor) -> Tensor:
        self.seen = x.dtype
        return 2 * torch.sign(x)


def doubled() -> Doubled:
    return Doubled(ConstScaling(0.5), 3, 0, None, None)


def test_fused_where_there_is_a_plan() -> None:
    tensor_quant = doubled()
    assert tensor_quant(X)[0].tolist() == [-1.0, 1.0]
    tensor_quant.chosen = SignPlan()
    value, scale, zero_point, bit_width = tensor_quant(X)
    assert value.tolist() == [-0.5, 0.5]
    assert scale.shape == (1,) and zero_point.shape == bit_width.shape == () and bit_width == 3
    tensor_quant.delay_wrapper.register_forward_hook(lambda *arguments: None)
    assert tensor_quant(X)[0].tolist() == [-1.0, 1.0]


def test_half_precision_is_computed_in_float32() -> None:
    tensor_quant = doubled()
    assert tensor_quant(X.half())[0].dtype is torch.float16
    assert tensor_quant.seen is torch.float32


def test_a_scale_with_dimensions_keeps_its_shape() -> None:
    tensor_quant = doubled()
    tensor_quant.scaling_impl = ConstScaling(torch.ones(2, 1))
    assert tensor_quant(X.reshape(2, 1))[1].shape == (2, 1)


QUANTIZERS: list[tuple[Any, dict[str, Any]]] = [
    (BinaryQuant, {}),
    (ClampedBinaryQuant, {}),
    (TernaryQuant, {"threshold": 0.5}),
]


@pytest.mark.parametrize(("kind", "arguments"), QUANTIZERS)
def test_an_override_takes_effect(kind: Any, arguments: dict[str, Any]) -> None:
    class Shifted(kind):
        """A rule of a user's own, ours by inheritance only."""

        def to_int(self, x: Tensor, scale: Tensor) -> Tensor:
            return super().to_int(x - 1, scale)

    ours, other = (quant(ConstScaling(0.5), **arguments) for quant in (kind, Shifted))
    assert ours.plan is not None and other.plan is None
    assert torch.equal(other(X)[0], ours(X - 1)[0])
