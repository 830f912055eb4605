"""Clamps of accumulators are built from their enums."""

from __future__ import annotations

import pytest
import torch

from brevitas.core.bit_width import MsbClampBitWidth, RemoveBitwidthParameter
from brevitas.core.quant import PrescaledRestrictIntQuantWithInputBitWidth
from brevitas.inject import DependencyError
from brevitas.quant.base import IntQuant, NarrowIntQuant, UintQuant
from brevitas.quant.solver import ClampQuantSolver


class Clamp(IntQuant, ClampQuantSolver):
    """Declares nothing of its own."""


def bits_left(quantizer, bits_in: float) -> float:
    return quantizer.tensor_quant.msb_clamp_bit_width_impl(torch.tensor(bits_in)).item()


def test_parts():
    tensor_quant = Clamp.tensor_quant
    assert type(tensor_quant) is PrescaledRestrictIntQuantWithInputBitWidth
    assert type(tensor_quant.msb_clamp_bit_width_impl) is MsbClampBitWidth


@pytest.mark.parametrize("kind", ["const", "parameter"])
def test_bit_width_is_the_most_that_comes_out(kind):
    quantizer = Clamp.let(bit_width_impl_type=kind, bit_width=8)
    assert [bits_left(quantizer, bits) for bits in (4.0, 8.0, 21.0)] == [4, 8, 8]


@pytest.mark.parametrize("kind", ["const", "parameter"])
def test_bits_to_remove(kind):
    quantizer = Clamp.let(bit_width_impl_type=kind, bit_width_to_remove=5)
    assert [bits_left(quantizer, bits) for bits in (6.0, 16.0, 21.0)] == [2, 11, 16]
    removal = quantizer.tensor_quant.msb_clamp_bit_width_impl.bit_width_to_remove_impl
    assert isinstance(removal, RemoveBitwidthParameter) is (kind == "parameter")
    limited = quantizer.let(min_overall_bit_width=4, max_overall_bit_width=12)
    assert [bits_left(limited, bits) for bits in (6.0, 16.0, 21.0)] == [4, 11, 12]


def test_range_of_the_integers():
    for base, signed, narrow in (
        (IntQuant, True, False),
        (NarrowIntQuant, True, True),
        (UintQuant, False, False),
    ):
        int_quant = type("Clamp", (base, ClampQuantSolver), {}).tensor_quant.int_quant
        assert (int_quant.signed, int_quant.narrow_range) == (signed, narrow)


def test_not_clamped():
    assert ClampQuantSolver.let(quant_type="fp").tensor_quant is None


def test_a_choice_that_is_not_there():
    with pytest.raises(DependencyError, match="bit_width_impl_type='stateful_const': not availab"):
        _ = Clamp.let(bit_width_impl_type="stateful_const").tensor_quant
    with pytest.raises(DependencyError, match="quant_type='binary': not available"):
        _ = Clamp.let(quant_type="binary").tensor_quant
