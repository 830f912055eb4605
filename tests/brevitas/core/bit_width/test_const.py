"""Constant bit widths."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from brevitas import config
from brevitas.core.bit_width import (
    BitWidthConst,
    BitWidthStatefulConst,
    MsbClampBitWidth,
    RemoveBitwidthParameter,
)
from brevitas.core.bit_width.const import RemovedBitsConst


@pytest.mark.parametrize("const", [BitWidthConst, BitWidthStatefulConst])
def test_result_is_a_0d_float(const: type[nn.Module]) -> None:
    y = const(8)()
    assert y.shape == () and y.dtype == torch.float32 and y.item() == 8.0
    assert const(8, dtype=torch.float16)().dtype == torch.float16
    assert not y.requires_grad


@pytest.mark.parametrize("const", [BitWidthConst, BitWidthStatefulConst])
@pytest.mark.parametrize("bit_width", [0, 3.5, "4", True])
def test_wrong_bit_width(const: type[nn.Module], bit_width: object) -> None:
    message = r"bit_width=.*: expected an int >= 1 \(2 for a learned bit width\)"
    with pytest.raises((ValueError, TypeError), match=message):
        const(bit_width)


def test_number_is_python() -> None:
    assert type(BitWidthConst(8.0).number) is int


def test_only_the_stateful_one_has_a_key() -> None:
    assert list(BitWidthConst(8).state_dict()) == []
    stateful = BitWidthStatefulConst(8)
    stateful.load_state_dict({"bit_width": torch.tensor(4.0)})
    assert list(stateful.state_dict()) == ["bit_width"] and stateful().item() == 4.0


def test_a_float_checkpoint_leaves_the_stateful_one_as_it_is() -> None:
    stateful = BitWidthStatefulConst(8)
    with config.overrides(IGNORE_MISSING_KEYS=True):
        stateful.load_state_dict({})
    assert stateful().item() == 8.0
    with pytest.raises(RuntimeError, match="IGNORE_MISSING_KEYS"):
        stateful.load_state_dict({})


def test_constant_built_on_meta_has_its_value_afterwards() -> None:
    with torch.device("meta"):
        const = BitWidthConst(5)
    assert const.to_empty(device="cpu")().item() == 5.0


@pytest.mark.parametrize(
    ("bits", "expected", "slope"),
    [(9.0, 6.0, 1.0), (7.0, 4.0, 1.0), (4.0, 2.0, 1.0), (1.0, 2.0, -1.0)],
)
def test_most_significant_bits_are_removed(bits: float, expected: float, slope: float) -> None:
    x = torch.tensor(bits, requires_grad=True)
    y = MsbClampBitWidth(BitWidthConst(3), 2, 6)(x)
    y.backward()
    assert y.item() == expected and x.grad.item() == slope


@pytest.mark.parametrize("bits", [0, 1, 5])
def test_removed_bits_may_be_none(bits: int) -> None:
    removed = RemovedBitsConst(bits)
    assert removed().item() == bits and list(removed.state_dict()) == []
    assert MsbClampBitWidth(removed, 2, 32)(torch.tensor(16.0)).item() == 16 - bits


@pytest.mark.parametrize("bits", [-1, 2.5, "4"])
def test_wrong_removed_bits(bits: object) -> None:
    with pytest.raises((ValueError, TypeError), match="bit_width_to_remove=.*: expected an int"):
        RemovedBitsConst(bits)


@pytest.mark.parametrize("removed", [0, 1, 3, 7])
def test_learned_removal_leaves_whole_bits(removed: int) -> None:
    """The coefficient is learned through rounding and clamp: d (b - 1 / c) / dc = 1 / c ** 2."""
    learned = RemoveBitwidthParameter(removed)
    y = MsbClampBitWidth(learned, 2, 32)(torch.tensor(16.0))
    y.backward()
    assert y.item() == 16 - removed
    denominator = learned.bit_width_coeff.item() + learned.non_zero_epsilon
    assert learned.bit_width_coeff.grad.item() == pytest.approx(denominator**-2, rel=1e-5)
