"""Which quantizer `quant_type` stands for, of weights and of activations."""

from __future__ import annotations

import pytest

import brevitas.nn as qnn
from brevitas.core.quant import BinaryQuant, ClampedBinaryQuant, RescalingIntQuant, TernaryQuant
from brevitas.core.zero_point import ZeroZeroPoint
from brevitas.inject import DependencyError, ExtendedInjector, value
from brevitas.inject.enum import (
    BitWidthImplType,
    FloatToIntImplType,
    QuantType,
    RestrictValueType,
    ScalingImplType,
    ScalingPerOutputType,
)
from brevitas.quant.solver import ActQuantSolver, WeightQuantSolver

BY_TYPE = {
    (WeightQuantSolver, QuantType.BINARY): BinaryQuant,
    (WeightQuantSolver, QuantType.TERNARY): TernaryQuant,
    (WeightQuantSolver, QuantType.INT): RescalingIntQuant,
    (ActQuantSolver, QuantType.BINARY): ClampedBinaryQuant,
    (ActQuantSolver, QuantType.TERNARY): TernaryQuant,
    (ActQuantSolver, QuantType.INT): RescalingIntQuant,
}


class ByBitWidth(ExtendedInjector):
    """A declaration that leaves the kind of quantizer to its number of bits."""

    scaling_impl_type = ScalingImplType.CONST
    bit_width_impl_type = BitWidthImplType.CONST
    float_to_int_impl_type = FloatToIntImplType.ROUND
    restrict_scaling_type = RestrictValueType.FP
    scaling_per_output_type = ScalingPerOutputType.TENSOR
    zero_point_impl = ZeroZeroPoint
    narrow_range = True
    signed = True
    threshold = 0.7

    @value
    def quant_type(bit_width: int | None) -> QuantType:
        types = {None: QuantType.FP, 1: QuantType.BINARY, 2: QuantType.TERNARY}
        return types.get(bit_width, QuantType.INT)


class WeightByBitWidth(ByBitWidth, WeightQuantSolver):
    scaling_const = 1.0


class ActByBitWidth(ByBitWidth, ActQuantSolver):
    min_val, max_val = -1.0, 1.0


@pytest.mark.parametrize("bits", [None, 1, 2, 4])
def test_quant_type_may_follow_from_the_bits(bits: int | None) -> None:
    kind = {None: QuantType.FP, 1: QuantType.BINARY, 2: QuantType.TERNARY, 4: QuantType.INT}[bits]
    layer = qnn.QuantLinear(4, 3, weight_quant=WeightByBitWidth, weight_bit_width=bits)
    act = qnn.QuantIdentity(act_quant=ActByBitWidth, bit_width=bits)
    if kind is QuantType.FP:
        assert not layer.weight_quant.is_quant_enabled and not act.act_quant.is_quant_enabled
        return
    weight_quant, act_quant = layer.weight_quant, act.act_quant
    assert type(weight_quant.tensor_quant) is BY_TYPE[WeightQuantSolver, kind]
    fused = act_quant.fused_activation_quant_proxy
    assert type(fused.tensor_quant) is BY_TYPE[ActQuantSolver, kind]
    assert weight_quant.bit_width() == act_quant.bit_width() == bits
    assert weight_quant.is_signed is act_quant.is_narrow_range is True
    assert layer.quant_weight().is_valid
    assert layer.quant_weight().int().abs().max() <= 2 ** max(bits - 1, 1) - 1


class WithoutThreshold(WeightQuantSolver):
    quant_type, scaling_impl_type = QuantType.TERNARY, ScalingImplType.CONST
    restrict_scaling_type, scaling_const = RestrictValueType.FP, 1.0


def test_a_ternary_quantizer_needs_a_threshold() -> None:
    with pytest.raises(DependencyError, match="threshold"):
        qnn.QuantLinear(4, 3, weight_quant=WithoutThreshold)


def test_an_unsigned_binary_quantizer_is_refused() -> None:
    declared = WeightByBitWidth.let(signed=False, bit_width=1)
    with pytest.raises(ValueError, match="signed=False: expected True"):
        qnn.QuantLinear(4, 3, weight_quant=declared)
