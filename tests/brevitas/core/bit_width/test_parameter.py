"""Learned bit widths: value, gradient, checkpoint."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from brevitas import config
from brevitas.core.bit_width import BitWidthParameter, RemoveBitwidthParameter
from brevitas.core.restrict_val import FloatRestrictValue, PowerOfTwoRestrictValue


@pytest.mark.parametrize("smallest", [1, 2, 3])
@pytest.mark.parametrize("bit_width", [3, 4, 8])
def test_offset_is_the_distance_from_the_smallest(bit_width: int, smallest: int) -> None:
    learned = BitWidthParameter(bit_width, smallest)
    assert learned.bit_width_offset.shape == ()
    assert learned.bit_width_offset.item() == bit_width - smallest
    assert learned().item() == bit_width


@pytest.mark.parametrize("offset", [-3.3, -0.4, 0.0, 0.6, 20.0])
def test_value_and_gradient(offset: float) -> None:
    learned = BitWidthParameter(8)
    learned.bit_width_offset.data.fill_(offset)
    y = learned()
    y.backward()
    assert y.item() == round(abs(offset) + 2)
    assert learned.bit_width_offset.grad.item() == (1.0 if offset >= 0 else -1.0)


def test_restriction_may_be_another() -> None:
    powers = BitWidthParameter(8, 2, PowerOfTwoRestrictValue())
    assert powers().item() == 8.0 and powers.bit_width_offset.item() == 2.0
    real = BitWidthParameter(8, 2, FloatRestrictValue())
    real.bit_width_offset.data.fill_(1.25)
    assert real().item() == 3.25


def test_range() -> None:
    learned = BitWidthParameter(8, bit_width_offset_min_val=3, bit_width_offset_max_val=6)
    assert learned().item() == 6.0
    learned.bit_width_offset.data.zero_()
    assert learned().item() == 3.0
    assert BitWidthParameter(8, bit_width_offset_max_val=6)().item() == 6.0


@pytest.mark.parametrize("bit_width", [0, 1, 3.5, "4", True, None])
def test_wrong_bit_width(bit_width: object) -> None:
    with pytest.raises((ValueError, TypeError), match="bit_width=.*: expected an int >= 2"):
        BitWidthParameter(bit_width)


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_removed_bits(bits: int) -> None:
    remove = RemoveBitwidthParameter(bits)
    y = remove()
    y.backward()
    coefficient = remove.bit_width_coeff.item()
    # epsilon = 1e-6 moves 1 / (epsilon + c) by epsilon / c ** 2, less than 1e-6 * bits ** 2
    assert abs(y.item() - bits) < 2e-6 * bits**2
    assert abs(remove.bit_width_coeff.grad.item() + 1 / (coefficient + 1e-6) ** 2) < 1e-5 * bits**2


def test_removing_nothing_is_a_small_number() -> None:
    assert abs(RemoveBitwidthParameter(0)().item() - 0.1) < 1e-6
    with pytest.raises(ValueError, match="bit_width_to_remove=-1"):
        RemoveBitwidthParameter(-1)


LEARNED = {BitWidthParameter: "bit_width_offset", RemoveBitwidthParameter: "bit_width_coeff"}


@pytest.mark.parametrize("learned", LEARNED)
def test_checkpoint_key(learned: type[nn.Module]) -> None:
    source, target = learned(8), learned(4)
    assert list(source.state_dict()) == [LEARNED[learned]]
    target.load_state_dict(source.state_dict())
    assert torch.equal(target(), source())
    with pytest.raises(RuntimeError, match=LEARNED[learned]):
        target.load_state_dict({})
    with config.overrides(IGNORE_MISSING_KEYS=True):
        target.load_state_dict({})


@pytest.mark.parametrize("learned", LEARNED)
def test_override_keeps_the_initial_value(learned: type[nn.Module]) -> None:
    source, target = learned(8), learned(4, override_pretrained_bit_width=True)
    target.load_state_dict(source.state_dict())
    target.load_state_dict({})
    assert torch.equal(target(), learned(4)())
