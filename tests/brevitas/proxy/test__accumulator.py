"""Proxies of accumulators: what they read, keep, pass on and share."""

from __future__ import annotations

import copy

import pytest
import torch

import brevitas.nn as qnn
from brevitas.proxy.runtime_quant import (
    AccQuantProxyProtocol,
    ClampQuantProxyFromInjector,
    TruncQuantProxyFromInjector,
)
from brevitas.quant import ShiftRoundSaturateTo8bit, TruncTo8bit
from brevitas.quant.base import IntQuant, NarrowIntQuant
from brevitas.quant.solver import ClampQuantSolver
from brevitas.quant_tensor import IntQuantTensor
from quant_tensors import make


class ClampTo8bit(IntQuant, ClampQuantSolver):
    bit_width = 8


def trunc(**keywords):
    return qnn.TruncQuantAccumulator(trunc_quant=TruncTo8bit, **keywords).trunc_quant


def clamp(**keywords):
    return qnn.ClampQuantAccumulator(clamp_quant=ClampTo8bit, **keywords).clamp_quant


PROXIES = {"trunc": trunc, "clamp": clamp}


def test_classes():
    assert type(trunc()) is TruncQuantProxyFromInjector
    assert type(clamp()) is ClampQuantProxyFromInjector
    assert isinstance(trunc(), AccQuantProxyProtocol)


@pytest.mark.parametrize("signed", [True, False])
def test_truncation_has_the_sign_of_its_input(signed):
    x, q = make((40,), bit_width=10, signed=signed)
    proxy = trunc()
    y = proxy(x)
    assert type(y) is IntQuantTensor and y.is_valid and y.signed is signed
    assert proxy.is_signed is None
    assert torch.equal(y.int().long(), q.long() >> 2)


def test_flags():
    proxy = trunc(narrow_range=True, float_to_int_impl_type="round", keeps_scale=True)
    assert (proxy.is_narrow_range, proxy.rounding_mode, proxy.keeps_scale) == (True, "ROUND", True)
    disabled = qnn.TruncQuantAccumulator().trunc_quant
    assert (disabled.is_narrow_range, disabled.rounding_mode) == (None, None)
    assert not disabled.keeps_scale and not disabled.is_quant_enabled
    assert not disabled.requires_export_handler and trunc().requires_export_handler
    proxy = clamp()
    assert (proxy.is_signed, proxy.is_narrow_range, proxy.rounding_mode) == (True, False, "ROUND")


@pytest.mark.parametrize("name", PROXIES)
def test_what_is_no_accumulator_passes(name):
    proxy = PROXIES[name]()
    x, _ = make((4,), bit_width=10)
    assert proxy(x.value) is x.value
    proxy.disable_quant = True
    assert proxy(x) is x
    proxy.disable_quant = False
    assert proxy(x).bit_width == 8


@pytest.mark.parametrize("name", PROXIES)
def test_fields_of_the_last_evaluation(name):
    proxy = PROXIES[name]()
    x, _ = make((4,), bit_width=10)
    proxy(x)
    assert proxy.scale() is proxy.zero_point() is proxy.bit_width() is None
    y = proxy.eval()(x)
    assert torch.equal(proxy.scale(), y.scale) and torch.equal(proxy.bit_width(), y.bit_width)
    assert torch.equal(proxy.zero_point(), y.zero_point)
    assert torch.equal(copy.deepcopy(proxy).scale(), y.scale)
    assert proxy.train().scale() is None


@pytest.mark.parametrize("name", PROXIES)
def test_the_value_alone(name):
    proxy = PROXIES[name]()
    x, _ = make((4,), bit_width=10)
    expected = proxy(x).value
    proxy.skip_create_quant_tensor = True
    assert torch.equal(proxy(x), expected)


@pytest.mark.parametrize("name", PROXIES)
def test_a_zero_point_that_is_zero_by_construction_stays_known(name):
    identity = qnn.QuantIdentity(return_quant_tensor=True)
    x = identity(torch.randn(2, 4))
    assert x._has_zero_point is False
    assert PROXIES[name]()(x)._has_zero_point is False


def test_a_zero_point_of_the_accumulator():
    x, q = make((40,), zero_point=8.0, bit_width=10)
    truncated = trunc()(x)
    assert truncated.is_valid and truncated.zero_point == 2.0
    assert torch.equal(truncated.int().long(), q.long() >> 2)
    clamped = clamp()(x)
    assert clamped.is_valid and clamped.zero_point == 0.0
    assert torch.equal(clamped.int().long(), (q.long() - 8).clamp(-128, 127))


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("base", [IntQuant, NarrowIntQuant])
def test_clamp_saturates(signed, base):
    x, q = make((200,), bit_width=12, signed=signed)
    quantizer = type("Clamp", (base, ClampQuantSolver), {"bit_width": 6})
    y = qnn.ClampQuantAccumulator(clamp_quant=quantizer)(x)
    low = -32 + (base is NarrowIntQuant)
    assert y.is_valid and y.signed and y.bit_width == 6 and torch.equal(y.scale, x.scale)
    assert torch.equal(y.int().long(), q.long().clamp(low, 31))


def test_a_learned_shift_is_shared_and_copied():
    first = qnn.TruncQuantAccumulator(trunc_quant=ShiftRoundSaturateTo8bit, collect_stats_steps=1)
    second = qnn.TruncQuantAccumulator(trunc_quant=first.trunc_quant)
    assert second.trunc_quant is first.trunc_quant
    x, _ = make((100,), bit_width=12)
    first(x)
    small, _ = make((100,), bit_width=8)
    assert torch.equal(first(small).scale, second(small).scale)
    duplicate = copy.deepcopy(first)
    (owner,) = duplicate.trunc_quant.tracked_module_list[:1]
    assert owner is duplicate
    assert torch.equal(duplicate(x).value, first(x).value)
