"""Keywords of accumulators reach their quantizer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from brevitas.nn.mixin.acc import QuantClampMixin, TruncMixin
from brevitas.quant import Int8ActPerTensorFloat, TruncTo8bit
from brevitas.quant.base import NarrowIntQuant
from brevitas.quant.solver import ClampQuantSolver
from quant_tensors import make


class Clamp(NarrowIntQuant, ClampQuantSolver):
    bit_width = 8


class Truncated(TruncMixin, nn.Module):
    def __init__(self, trunc_quant, **keywords):
        nn.Module.__init__(self)
        TruncMixin.__init__(self, trunc_quant, **keywords)


class Clamped(QuantClampMixin, nn.Module):
    def __init__(self, clamp_quant, **keywords):
        nn.Module.__init__(self)
        QuantClampMixin.__init__(self, clamp_quant, **keywords)


def test_no_prefix():
    x, _ = make((4,), bit_width=10)
    assert Truncated(TruncTo8bit, bit_width=3).trunc_quant(x).bit_width == 3
    assert Clamped(Clamp, bit_width=3).clamp_quant(x).bit_width == 3


def test_flags():
    assert Truncated(TruncTo8bit).is_trunc_quant_enabled
    assert not Truncated(None).is_trunc_quant_enabled
    layer, plain = Clamped(Clamp), Clamped(None)
    assert layer.is_clamp_quant_enabled and not plain.is_clamp_quant_enabled
    assert layer.is_quant_clamp_signed is True and layer.is_quant_clamp_narrow_range is True
    assert plain.is_quant_clamp_signed is None and plain.is_quant_clamp_narrow_range is None


def test_a_quantizer_of_another_tensor_is_refused():
    with pytest.raises(TypeError, match="its proxy is ActQuantProxyFromInjector"):
        Truncated(Int8ActPerTensorFloat)
    with pytest.raises(TypeError, match="expected a quantizer class"):
        Clamped(8)


def test_sharing():
    first = Truncated(TruncTo8bit)
    assert Truncated(first.trunc_quant).trunc_quant is first.trunc_quant
    x = torch.zeros(2)
    assert first.trunc_quant(x) is x
