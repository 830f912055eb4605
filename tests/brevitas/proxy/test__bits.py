"""How many bits a proxy quantizes to."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import brevitas.nn as qnn
from brevitas.core.bit_width import BitWidthConst, BitWidthParameter
from brevitas.proxy._bits import (
    FLOAT_PARTS,
    INT_PARTS,
    bit_width_parts,
    has_learned_bits,
    total_bits,
)
from brevitas.quant import Fp8e4m3Weight


def minifloat_proxy(exponent: nn.Module, mantissa: nn.Module) -> nn.Module:
    proxy = qnn.QuantLinear(2, 3, weight_quant=Fp8e4m3Weight).weight_quant
    proxy.tensor_quant.exponent_bit_width_impl = exponent
    proxy.tensor_quant.mantissa_bit_width_impl = mantissa
    return proxy


@pytest.mark.parametrize("learned", [True, False])
def test_an_integer_quantizer(learned):
    kind = "parameter" if learned else "const"
    layer = qnn.QuantLinear(2, 3, weight_bit_width_impl_type=kind, weight_bit_width=5)
    proxy = layer.weight_quant
    (part,) = bit_width_parts(proxy, INT_PARTS)
    assert part is proxy.tensor_quant.msb_clamp_bit_width_impl
    assert total_bits(proxy, INT_PARTS).item() == 5
    assert has_learned_bits(proxy, INT_PARTS) is learned
    assert not has_learned_bits(proxy, FLOAT_PARTS)


@pytest.mark.parametrize("learned", [True, False])
def test_a_minifloat_has_a_sign_an_exponent_and_a_mantissa(learned):
    proxy = minifloat_proxy(BitWidthConst(4), (BitWidthParameter if learned else BitWidthConst)(3))
    assert total_bits(proxy, FLOAT_PARTS).item() == 8
    assert has_learned_bits(proxy, FLOAT_PARTS) is learned
    assert bit_width_parts(proxy, INT_PARTS) == []
    if learned:
        total_bits(proxy, FLOAT_PARTS).backward()
        (parameter,) = proxy.parameters()
        assert torch.equal(parameter.grad, torch.tensor(1.0))


def test_nothing_is_quantized():
    proxy = qnn.QuantLinear(2, 3, weight_quant=None).weight_quant
    assert bit_width_parts(proxy, INT_PARTS) == [] and not has_learned_bits(proxy, INT_PARTS)
    proxy = qnn.QuantReLU(bit_width_impl_type="parameter").act_quant
    assert has_learned_bits(proxy, INT_PARTS)
    proxy.disable_quant = True
    assert not has_learned_bits(proxy, INT_PARTS)
